"""After a kill and a resume, MLflow's server and W&B's own files have each epoch once, as history.jsonl has it."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.callbacks.hparams import flat_settings
from src.runs.record import Record
from src.verify_resume import WATCHED, command, run_until
from tests.support import forks
from tests.support.forks import PYTHONPATH, ROOT

MLFLOW = Path(os.environ.get("MLFLOW_SERVER", ROOT / ".venv" / "mlflow" / "bin" / "mlflow"))  # its pins are not ours
RUN = ["data=digits", "model=mlp", "epochs=6", "callback.export=null", "name=tracked"]
PATIENCE_SECONDS = 120
BLOCK_BYTES, WHOLE, LAST = 2**15, 1, 4  # of LevelDB's logs, and kinds of their records


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The history of a run that nothing tracks."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder)
    return losses(folder / "run")


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    line = command([*RUN, *words], folder / "run", *WATCHED)
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done


def losses(run: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if "/" in name} for line in Record(run).history()]


def killed_and_continued(folder: Path, *words: str) -> Path:
    """A run that was killed in epoch 4 and went on from the end of epoch 2, so that epoch 3 came twice."""
    start = functools.partial(subprocess.Popen, cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH})
    run = folder / "run"
    assert run_until(command([*RUN, *words], run, *WATCHED), run, step=150, start=start) is not None
    assert len(Record(run).history()) >= 3
    checkpoints = sorted(
        (run / "checkpoints").glob("ckpt-*.json"), key=lambda path: json.loads(path.read_text())["step"]
    )
    for later in [path for path in checkpoints if json.loads(path.read_text())["epoch"] > 2]:
        for path in later.parent.glob(f"{later.stem}.*"):
            path.unlink()
    train(folder, *words)
    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a running MLflow server."""
    if not MLFLOW.exists():
        pytest.skip("make test-extras installs MLflow's server")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{(port := free.getsockname()[1])}"
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("w") as log:
        line = [str(MLFLOW), "server", *options, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(PATIENCE_SECONDS):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        else:
            raise AssertionError((folder / "log").read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def test_mlflow_has_each_epoch_once(server, straight, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = killed_and_continued(tmp_path, "callback.tracker.to=mlflow")
    client, history = MlflowClient(server), Record(run).history()
    assert losses(run) == straight
    experiment = client.get_experiment_by_name("tracked")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.data.tags["id"] == Record(run).read()["id"]
    for name in history[0].keys() - {"epoch"}:
        points = client.get_metric_history(found.info.run_id, name)
        assert [point.step for point in points] == [line["epoch"] for line in history]
        if name != "seconds":  # epoch 3 came twice, and what it took the second time is not sent
            assert [point.value for point in points] == [line[name] for line in history], name
    record = Record(run).read()
    settings = flat_settings(record["choices"], record["config"])
    assert found.data.params == {key: str(value) for key, value in settings.items()}
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["predictions.png"]
    assert (
        f"{server}/#/experiments/{experiment.experiment_id}/runs/{found.info.run_id}" in (run / "train.log").read_text()
    )

    train(tmp_path, "callback.tracker.to=mlflow", "rerun=true")  # another one there
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_service_that_cannot_be_reached_ends_training_or_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = [word for word in RUN if word != "epochs=6"] + ["epochs=1", "callback.tracker.to=mlflow"]
    done = forks.run("src.train", words, cwd=tmp_path)
    assert done.returncode == 1 and "127.0.0.1" in done.stderr
    done = forks.run("src.train", [*words, "may_fail=[tracker]"], cwd=tmp_path)
    assert done.returncode == 0 and "callback tracker failed in on_train_begin: " in done.stderr


def written_by_wandb(file: Path) -> Iterator[Any]:
    """The messages of a .wandb file: LevelDB's format of logs, after 7 bytes of a header."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    content, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := BLOCK_BYTES - position % BLOCK_BYTES) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (WHOLE, LAST):
            yield Message.FromString(parts)
            parts = b""


def test_wandb_has_each_epoch_once(straight, tmp_path):
    run = killed_and_continued(tmp_path, "callback.tracker.to=wandb_offline")
    assert losses(run) == straight
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    messages = list(written_by_wandb(file))
    (made,) = [message.run for message in messages if message.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in made.config.update if item.key != "_wandb"}
    record = Record(run).read()
    assert flat_settings(record["choices"], record["config"]).items() <= config.items() and made.project == "tracked"
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in message.history.item}
        for message in messages
        if message.HasField("history")
    ]
    found = [{name: value for name, value in row.items() if name in Record(run).history()[0]} for row in rows]
    assert found == Record(run).history()
    assert rows[-1]["predictions/_type"] == "image-file" and [
        message for message in messages if message.HasField("exit")
    ]
