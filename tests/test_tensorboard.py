"""What a user sees: a real sweep in the real TensorBoard, asked over HTTP and looked at in a real browser."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request, urlopen

import pytest

from src.common.pictures import TILE
from src.runs.record import Record
from tests.callbacks.reading import decoded
from tests.support.helpers import DIGITS, train

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PATIENCE_SECONDS = 60
LEAN = ("callback.export=null", "trainer.limit_train_batches=20")
ONE = (*DIGITS, *LEAN, "optimizer=sgd", "epochs=2")
OTHER = (*DIGITS, *LEAN, "epochs=3", "callback=early_stopping", "model.dropout=0.2", "callback.profile.enabled=true")


class Board:
    """A running TensorBoard."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        return json.loads(self.read(path, **query))

    def post(self, path: str, body: Any) -> Any:
        return json.loads(self.read(path, json.dumps(body).encode()))

    def read(self, path: str, body: bytes | None = None, **query: str) -> bytes:
        request = Request(f"{self.url}data/{path}?{urlencode(query)}", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            content = answer.read()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Board]:
    """`tensorboard --logdir <folder>`, as a user starts it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        found = next((m for m in (re.search(r"http://127\S+", line) for line in process.stderr) if m), None)
        assert found, "TensorBoard did not start"
        yield Board(found[0])
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Two runs of other options, by id."""
    folder = tmp_path_factory.mktemp("board")
    for overrides in (ONE, OTHER):
        found = train(*overrides, cwd=folder)
        assert found.returncode == 0, found.stderr
    return {path.parent.name.rpartition("-")[2]: path.parent for path in folder.glob("outputs/digits/*/run.json")}


@pytest.fixture(scope="module")
def board(runs) -> Iterator[Board]:
    with tensorboard(next(iter(runs.values())).parent) as board:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(board.get("runs")) < 2 * len(runs) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield board


def test_runs(board, runs):
    """Two for each of ours, and no more: TensorBoard draws up to 40 unasked."""
    wanted = {f"{path.name}/summaries/{split}" for path in runs.values() for split in ("train", "val")}
    assert len(runs) == 2 and set(board.get("runs")) == wanted


def test_scalars_are_those_of_the_history(board, runs):
    """Under equal tags, so that train and val overlay."""
    tags = board.get("plugin/scalars/tags")
    for path in runs.values():
        train_tags, val_tags = (set(tags[f"{path.name}/summaries/{split}"]) for split in ("train", "val"))
        of_best = {tag for tag in val_tags if tag.startswith("best")}
        assert val_tags - of_best == {"loss", "accuracy", "learning_rate"}
        assert train_tags == val_tags - of_best | {"batch_loss", "gradient_norm", "steps_per_second"}
        for split in ("train", "val"):
            for tag in ("loss", "accuracy"):
                points = board.get("plugin/scalars/scalars", run=f"{path.name}/summaries/{split}", tag=tag)
                expected = {epoch["step"]: epoch[f"{split}/{tag}"] for epoch in Record(path).history()}
                assert {step: value for _, step, value in points} == pytest.approx(expected)
                assert len(points) == len(expected)


def wanted_settings(record: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in record["config"].items() if not key.endswith("._target_")}
    return record["choices"] | own


def test_hyperparameters_are_complete_however_the_runs_differ(board, runs):
    experiment = board.post("plugin/hparams/experiment", {})
    groups = session_groups(board)
    assert set(groups) == set(runs)
    keys = set()
    for id_, path in runs.items():
        record = Record(path).read()
        assert groups[id_]["hparams"] == wanted_settings(record)
        keys |= set(groups[id_]["hparams"])
        (session,) = groups[id_]["sessions"]
        assert session["status"] == "STATUS_SUCCESS" and session["name"] == f"{path.name}/summaries/val"
    found = [info["name"] for info in experiment["hparamInfos"]]
    assert set(found) == keys and len(found) == len(keys)
    assert {"optimizer.momentum", "optimizer.beta_1", "callback.early_stopping.patience"} <= keys
    differing = {info["name"] for info in experiment["hparamInfos"] if info["differs"]}
    assert differing == {"optimizer", "optimizer.learning_rate", "callback", "model.dropout", "epochs"}
    assert set(found[:5]) == differing  # what TensorBoard shows unasked


def test_metrics_are_those_of_the_best_and_the_final_of_validation(board, runs):
    for id_, group in session_groups(board).items():
        record, history = Record(runs[id_]).read(), Record(runs[id_]).history()
        found = {
            "/".join(filter(None, (value["name"]["group"], value["name"]["tag"]))): value["value"]
            for value in group["metricValues"]
        }
        best = {name: value for name, value in history[record["best"]["epoch"] - 1].items() if "/" in name}
        final = {name.removeprefix("val/"): value for name, value in record["metrics"].items() if "val/" in name}
        expected = final | {f"best_epoch/{name}": value for name, value in best.items()}
        del expected[f"best_epoch/{record['monitor']}"]
        expected |= {"best/epoch": record["best"]["epoch"], f"best/{record['monitor']}": record["best"]["value"]}
        assert {name: found[name] for name in expected} == pytest.approx(expected)


def session_groups(board: Board) -> dict[str, Any]:
    statuses = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    body = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": statuses, "colParams": []}
    return {group["name"]: group for group in board.post("plugin/hparams/session_groups", body)["sessionGroups"]}


def test_pictures(board, runs):
    for path in runs.values():
        run, record = f"{path.name}/summaries/val", Record(path).read()
        steps = {
            tag: [image["step"] for image in board.get("plugin/images/images", run=run, tag=tag, sample="0")]
            for tag in board.get("plugin/images/tags")[run]
        }
        assert steps == {
            "predictions": [epoch["step"] for epoch in Record(path).history()],
            "confusion": [record["best"]["step"]],
        }
        for tag in steps:
            image = board.get("plugin/images/images", run=run, tag=tag, sample="0")[-1]
            picture = decoded(board.read("plugin/images/individualImage", **dict(parse_qsl(image["query"]))))
            assert picture.shape[-1] == 3 and min(picture.shape[:2]) > TILE and picture.std() > 10


def test_graph(board, runs):
    for path in runs.values():
        graph = board.read("plugin/graphs/graph", run=f"{path.name}/summaries/train", conceptual="false")
        assert b"Conv2D" in graph and b"logits" in graph


def test_profile(board, runs):
    """With the extra `profile`."""
    recorded = [path.parent.name for path in runs.values() if any(path.rglob("*.xplane.pb"))]
    (profiled,) = (path for path in runs.values() if any(path.rglob("*.xplane.pb")))
    assert len(recorded) == 1
    if not find_spec("xprof"):
        pytest.skip("xprof is not installed")
    (run,) = board.get("plugin/profile/runs")
    assert run.startswith(f"{profiled.name}/summaries/train")
    assert "trace_viewer@" in board.get("plugin/profile/run_tools", run=run)
    (host,) = board.get("plugin/profile/hosts", run=run, tag="trace_viewer@")
    trace = board.read("plugin/profile/data", run=run, tag="trace_viewer@", host=host["hostname"])
    assert b"Conv2D" in trace or b"relu" in trace


class Browser:
    """Chromium without a window, spoken to in its DevTools protocol over two pipes."""

    def __init__(self, profile: Path) -> None:
        (read, self._to), (self._from, write) = os.pipe(), os.pipe()
        flags = "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu --window-size=3600,900"
        command = [CHROMIUM, *flags.split(), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        shell = ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self._received, self._count = b"", 0

    def open(self, url: str) -> None:
        page = self._call("Target.createTarget", url=url)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]

    def evaluate(self, script: str) -> Any:
        found = self._call("Runtime.evaluate", self._session, expression=script, returnByValue=True)
        return found["result"]["value"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)
        os.close(self._to)
        os.close(self._from)

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._next_message())
            if answer.get("id") == self._count:
                return answer["result"]

    def _next_message(self) -> bytes:
        while b"\0" not in self._received:
            received = os.read(self._from, 2**16)
            assert received, "the browser has ended"
            self._received += received
        message, _, self._received = self._received.partition(b"\0")
        return message


# The table's cells, as [y, x, text] of what the eye sees; TensorBoard nests them in shadow roots.
CELLS = """(() => {
  const found = [];
  const walk = node => node.querySelectorAll("*").forEach(element => {
    const box = element.getBoundingClientRect();
    const text = element.localName == "vaadin-grid-cell-content" && box.width ? element.innerText.trim() : "";
    if (text && text != "Show Metrics") found.push([Math.round(box.y), Math.round(box.x), text]);
    if (element.shadowRoot) walk(element.shadowRoot);
  });
  walk(document);
  return found;
})()"""


def seen_table(browser: Browser) -> list[list[str]]:
    rows: dict[int, dict[int, str]] = {}
    for y, x, text in sorted(browser.evaluate(CELLS)):
        rows.setdefault(y, {})[x] = text
    return [list(row.values()) for row in rows.values()]


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_table_in_a_browser(board, runs, tmp_path):
    """Each run is a row; unasked it has the hyperparameters that differ, and the best epoch and value."""
    browser, table = Browser(tmp_path / "browser"), []
    try:
        browser.open(f"{board.url}#hparams")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(table) < 1 + len(runs) and time.monotonic() < deadline:
            time.sleep(0.2)
            table = seen_table(browser)
    finally:
        browser.close()
    header, *rows = table
    differing = ["callback", "epochs", "model.dropout", "optimizer", "optimizer.learning_rate"]
    of_train = ["best_epoch/train/accuracy", "best_epoch/train/loss"]
    metrics = ["accuracy", "best/epoch", "best/val/accuracy", *of_train]
    assert header == ["Trial ID", *differing, *metrics]
    assert {row[0] for row in rows} == set(runs) and len(rows) == len(runs)
    for row in rows:
        cells, record = dict(zip(header, row, strict=True)), Record(runs[row[0]]).read()
        for key in differing:
            assert same(cells[key], wanted_settings(record)[key])
        assert same(cells["accuracy"], record["metrics"]["val/accuracy"])
        assert same(cells["best/epoch"], record["best"]["epoch"])
        assert same(cells["best/val/accuracy"], record["best"]["value"])


def same(shown: str, value: Any) -> bool:
    """TensorBoard shows five digits of a number."""
    return shown == value if isinstance(value, str) else float(shown) == pytest.approx(value, rel=1e-4)
