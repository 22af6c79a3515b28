"""metrics.csv says what history.jsonl says, whatever has become of the run between."""

import csv
import json

from src.callbacks.csv import MetricsCsv
from tests.support.helpers import only_run, train

LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
RUN = ("data=digits", "model=mlp", *LEAN, "epochs=6", "callback=[default,early_stopping]")


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def written(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: str(value) for key, value in line.items()} for line in lines]


def test_each_epoch_has_one_row_after_a_run_is_continued(tmp_path):
    stopped = train(*RUN, "max_seconds=0.01", cwd=tmp_path)  # without the table
    assert stopped.returncode == 0, stopped.stderr
    folder = only_run(tmp_path / "outputs" / "digits")
    assert not (folder / "metrics.csv").exists()
    again = train(*RUN, "callback.csv.enabled=true", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert table(folder) == written(folder)
    assert [row["epoch"] for row in table(folder)] == [str(epoch) for epoch in range(1, 7)]
    assert {"learning_rate", "seconds", "train/loss", "val/accuracy"} <= table(folder)[0].keys()
    assert "  learning rate " in again.stderr
    record = json.loads((folder / "run.json").read_text())
    assert record["choices"]["callback"] == ["default", "early_stopping"]
    assert (record["choices"]["model"], record["choices"]["data"]) == ("mlp", "digits")


def test_what_a_line_lacks_is_empty_and_a_torn_line_is_none(tmp_path):
    lines = [
        '{"epoch": 1, "train/loss": 2.5}',
        '{"epoch": 2, "train/loss": null, "val/loss": 0.5}',
        '{"epoch": 3, "tra',
    ]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    MetricsCsv(record=str(tmp_path), enabled=True).make_durable()
    assert table(tmp_path) == [
        {"epoch": "1", "train/loss": "2.5", "val/loss": ""},
        {"epoch": "2", "train/loss": "", "val/loss": "0.5"},
    ]
