"""Jobs of every kind: trained, evaluated and predicted from raw files by commands, with the numbers of the model."""

import json

import numpy as np
import pytest
import tensorflow as tf

from src import build
from src.callbacks.checkpoint import BEST
from src.data.batch import INPUTS, named_parts
from src.runs.recorded_config import load_config
from src.training.checkpoints import Checkpoints
from tests.jobs import JOBS
from tests.support import forks
from tests.support.helpers import only_run, train

SHORT = ("epochs=1", "data.limit=0.2", "trainer.threads=1")
ROWS = 5


@pytest.mark.parametrize("name", JOBS)
def test_a_job(name, tmp_path):
    job = JOBS[name]
    done = train(*job.overrides, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "outputs" / load(tmp_path)["name"])
    evaluated = forks.run("src.evaluate", [str(run)], cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "SavedModel" in evaluated.stdout.splitlines()[0]

    cfg = load_config(run)
    data = build.build_data(cfg)
    batches = data.raw("val")
    inputs = tf.nest.map_structure(lambda tensor: tensor[:ROWS], batches.next(batches.open(0, 0), tf.constant(0))[0])
    file = write(tmp_path / f"new{job.rows}", named_parts(inputs, INPUTS))
    predicted = forks.run("src.predict", [str(run), str(file)], cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    lines = [json.loads(line) for line in (run / "predictions" / "predictions.jsonl").read_text().splitlines()]
    trainer = build.build_trainer(cfg, data, run_dir=run)
    Checkpoints(run / "checkpoints" / BEST).restore_weights(trainer.state)
    wanted = trainer.state.predict(data.prepare(inputs)).numpy()
    key = "logits" if "logits" in lines[0] else "outputs"
    np.testing.assert_allclose([line[key] for line in lines], wanted, rtol=1e-5, atol=1e-5)


def test_a_file_that_lacks_a_column_or_a_value_is_refused(tmp_path):
    assert train("data=table", *SHORT, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "table")
    names = ["age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu"]
    for header, row, message in (
        (names[1:], ["b", *"234567890"[:8]], "has no age; the model takes"),
        (names, ["", "b", *"12345678"], "row 1: age is missing"),
        (names, ["old", "b", *"12345678"], "age is no float32"),
    ):
        file = tmp_path / "new.csv"
        file.write_text(",".join(header) + "\n" + ",".join(row) + "\n")
        refused = forks.run("src.predict", [str(run), str(file)], cwd=tmp_path)
        assert refused.returncode != 0 and message in refused.stderr
        assert not (run / "predictions").exists()


def test_weights_of_another_run_are_taken_and_named(tmp_path):
    first = ("data=digits", "model=mlp", "model.hidden_units=[16]", *SHORT)
    assert train(*first, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "digits")
    second = train(*first, f"init_from={run}", "optimizer=sgd", "name=second", cwd=tmp_path)
    assert second.returncode == 0 and f"init_from={run}: 4 of 4 weights taken" in second.stderr
    losses = [
        json.loads((only_run(tmp_path / "outputs" / name) / "history.jsonl").read_text().splitlines()[0])
        for name in ("digits", "second")
    ]
    assert losses[1]["train/loss"] < losses[0]["train/loss"]
    other = train(*first[:2], "model.hidden_units=[8]", *SHORT, f"init_from={run}", "name=third", cwd=tmp_path)
    assert "1 of 4 weights taken; as initialized: dense_1/kernel" in other.stderr
    none = train("data=digits", "model=cnn", *SHORT, "init_from=mine.keras", cwd=tmp_path)
    assert none.returncode == 2 and "mine.keras is no model that can be loaded" in none.stderr


def load(folder):
    (record,) = folder.glob("outputs/*/*/run.json")
    return json.loads(record.read_text())


def write(file, inputs):
    """The inputs by name as a file of rows."""
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    if file.suffix == ".npz":
        np.savez(file, **arrays)
        return file
    columns = {
        name: [value.decode() if isinstance(value, bytes) else repr(float(value)) for value in values]
        for name, values in arrays.items()
    }
    rows = list(zip(*columns.values(), strict=True))
    if file.suffix == ".txt":
        lines = [value for (value,) in rows]
    elif file.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        lines = [",".join(columns), *map(",".join, rows)]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file
