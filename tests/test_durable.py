"""What a checkpoint counts as done is on the disk before it counts, and what is missing is said."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from benchmarks.errors import errors
from src.callbacks.checkpoint import Checkpoint
from src.callbacks.events import MOST_WAITING, EventFiles, SummaryError, read_values
from src.callbacks.histograms import Histograms
from src.callbacks.images import Images
from src.callbacks.summaries import Summaries, read_scalars
from src.common.files import replace, replacing
from src.config.compose import ConfigError, compose
from src.data.images.image_data import ImageData
from src.data.pipeline import InMemory
from src.evaluate import load_config
from src.models.mlp import mlp
from src.runs import execute
from src.runs.record import Record
from src.runs.record_callback import RecordCallback
from src.runs.record_schema import read_history
from src.runs.run import Run
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.state import Snapshot, TrainState
from src.training.trainer import Interrupted
from tests.support.helpers import DIGITS
from tests.training.test_trainer import InterruptAt, digits, make_trainer


class Disk:
    """What a disk holds for sure: the bytes of files and the names in directories at their last fsync.

    Attributes:
        lost: for each manifest, what a power cut after it would take away of the rest that was there when its state
            was copied.
    """

    def __init__(self, top: Path, patch: pytest.MonkeyPatch) -> None:
        self._top, self._fsync, self._rename, self._snapshot = top, os.fsync, os.rename, TrainState.snapshot
        self._bytes: dict[Path, int] = {}
        self._counted: dict[Path, int] = {}
        self._names: dict[Path, set[str]] = {}
        self.lost: list[list[str]] = []
        self.fsyncs: list[Path] = []
        patch.setattr(os, "fsync", self._note_fsync)
        patch.setattr(os, "rename", self._note_rename)
        patch.setattr(TrainState, "snapshot", lambda state: self._note_snapshot(state))

    def _note_snapshot(self, state: TrainState) -> Snapshot:
        for open_files in EventFiles._open.values():
            until_written(open_files)
        files = [path for path in self._top.rglob("*") if path.match("*.jsonl") or path.match("events.*")]
        self._counted = {path: path.stat().st_size for path in [*files, *self._top.rglob("run.json")]}
        return self._snapshot(state)

    def _note_fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        there = set(os.listdir(path)) if path.is_dir() else path.stat().st_size
        self._fsync(descriptor)
        self.fsyncs.append(path)
        if path.is_dir():
            self._names[path] = there
        else:
            self._bytes[path] = there

    def _note_rename(self, old, new, **options) -> None:
        if (path := Path(new)).match("ckpt-*.json"):
            self.lost.append(self._would_lose(path.parent))
        self._rename(old, new, **options)

    def _would_lose(self, checkpoints: Path) -> list[str]:
        files = {path: size for path, size in self._counted.items() if path.name != "run.json"}
        lost = [f"bytes of {path.name}" for path, size in files.items() if self._bytes.get(path, 0) < size]
        for path in [*self._counted, checkpoints]:
            while path != self._top:
                if path.name not in self._names.get(path.parent, ()):
                    lost.append(f"name of {path.relative_to(self._top)}")
                path = path.parent
        return lost


def until_written(files: EventFiles) -> None:
    """Wait for the events that have been given to be written."""
    files._thread.submit(lambda: None).result()


def fit(run: Path, *, epochs: int = 2, **callbacks: Callback):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    trainer = make_trainer(
        mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=(4,)),
        callbacks={
            "summaries": Summaries(directory=str(run / "summaries"), every_steps=2),
            **callbacks,
            "record": RecordCallback(record=Record(run)),
            "checkpoint": Checkpoint(directory=str(run / "checkpoints"), every_steps=3),
        },
        monitor="val/accuracy",
        mode="max",
        steps_per_call=1,
    )
    if "interrupt" in callbacks:
        callbacks["interrupt"].trainer = trainer
    Checkpoints(run / "checkpoints").restore(trainer.state)
    images, labels = digits(64)
    train, val = InMemory(images, labels, batch_size=16, shuffle_seed=0), InMemory(images, labels, batch_size=64)
    trainer.fit(train, val, epochs=epochs)
    return trainer


def test_what_a_checkpoint_counts_is_on_the_disk_before_it(tmp_path, monkeypatch):
    """At each epoch's end, within epochs, the best, on an interruption, after a resume."""
    run = tmp_path / "outputs" / "digits" / "run"
    disk = Disk(tmp_path, monkeypatch)
    Record(run).update(status="running")
    with pytest.raises(Interrupted):
        fit(run, interrupt=InterruptAt(5))
    fit(run)
    assert len(disk.lost) >= 6
    assert disk.lost == [[] for _ in disk.lost]


def test_a_file_is_fsynced_once_a_checkpoint(tmp_path, monkeypatch):
    run = tmp_path / "run"
    disk = Disk(tmp_path, monkeypatch)
    fit(run, epochs=3)
    appended = [path for path in disk.fsyncs if path.match("*.jsonl") or path.match("events.*")]
    assert appended.count(run / "history.jsonl") == 3
    assert max(map(appended.count, appended)) <= 3 + 4  # ends of epochs, and checkpoints within them
    assert disk.fsyncs.count(run / "summaries" / "train") == 1


def test_the_name_of_a_new_file_is_fsynced_with_it_and_once(tmp_path, monkeypatch):
    record, disk = Record(tmp_path), Disk(tmp_path, monkeypatch)
    for append, expected in (
        (record.append_epoch, ["history.jsonl", "."]),
        (record.append_validation, ["validations.jsonl", "."]),
        (record.append_epoch, ["history.jsonl"]),
    ):
        disk.fsyncs.clear()
        append(json.loads(LINES[0]))
        record.make_durable()
        assert disk.fsyncs == [tmp_path / name for name in expected]


def test_what_takes_another_s_place_is_on_the_disk_before(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    for at_once in (False, True):
        disk.fsyncs.clear()
        replace(tmp_path / "file", "text", at_once=at_once)
        [before, *after] = disk.fsyncs
        assert before.parent == tmp_path and before.name.startswith(".tmp-") and after == [tmp_path] * at_once
    disk.fsyncs.clear()
    with replacing(tmp_path / "folder") as new:
        (new / "inner").mkdir(parents=True)
        (new / "inner" / "file").touch()
    assert set(disk.fsyncs[:3]) == {new, new / "inner", new / "inner" / "file"} and disk.fsyncs[3:] == [tmp_path]


class Lossy(Callback):
    """An event of the second epoch is lost on its way to the disk, unnoticed by TensorFlow."""

    def __init__(self, files: Path, *, whole: bool) -> None:
        self._files, self._whole = files, whole

    def on_epoch_end(self, state, metrics):
        if state.epoch == 2:
            until_written(EventFiles._open[self._files])
            [path] = (self._files / "val").glob("events*")
            if self._whole:  # where the first of a record's writes fails, nothing of it is there
                *_, before, _ = _ends(path)
                os.truncate(path, before)
            else:
                path.write_bytes(path.read_bytes()[:-40] + path.read_bytes()[-20:])


def _ends(path: Path) -> list[int]:
    ends = [0]
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        ends.append(ends[-1] + 16 + len(record))
    return ends


@pytest.mark.sample(1)
@pytest.mark.parametrize("whole", [True, False], ids=["a record", "bytes"])
def test_a_lost_event_ends_training_and_is_done_again(tmp_path, whole):
    fit(tmp_path / "straight")
    run = tmp_path / "run"
    with pytest.raises(OSError, match=r"val.*lacks .*step 8"):
        fit(run, lossy=Lossy(run / "summaries", whole=whole))
    fit(run)
    found, expected = (read_scalars(path / "summaries") for path in (run, tmp_path / "straight"))
    for key in {("train", "batch_loss"), ("train", "loss"), ("val", "loss"), ("val", "accuracy")}:
        assert found[key] == expected[key], key


def test_events_after_the_checkpoint_go_even_where_those_between_are_lost(tmp_path):
    """A disk may keep a later event of a file and not an earlier one."""
    files = EventFiles(tmp_path, step=0)
    for step in (2, 4, 8):
        files.write(tf.summary.scalar, "train", step, {"loss": float(step)})
    files.close()
    again = EventFiles(tmp_path, step=4)
    for step in (6, 8):
        again.write(tf.summary.scalar, "train", step, {"loss": float(step)})
    again.close()
    assert read_scalars(tmp_path) == {("train", "loss"): [(2, 2.0), (4, 4.0), (6, 6.0), (8, 8.0)]}


class Pace(Callback):
    """Events are written before training goes on, or, if late, none of three epochs before these have ended."""

    def __init__(self, files: Path, *, late: bool) -> None:
        self._files, self._late, self._go_on = files, late, threading.Event()

    def on_train_begin(self, state):
        if self._late:
            EventFiles.shared(self._files, step=state.step)._thread.submit(self._go_on.wait)

    def on_epoch_end(self, state, metrics):
        if not self._late:
            until_written(EventFiles._open[self._files])
        elif state.epoch == 3:
            assert not read_scalars(self._files)
            self._go_on.set()


def test_an_event_that_is_written_late_is_that_of_its_step(tmp_path):
    images, labels = digits(64)
    data = ImageData(**dict.fromkeys(("train", "val"), (images, labels)), num_classes=10, batch_size=16, seed=0)
    for name in ("late", "straight"):
        folder = tmp_path / name
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        files = {"directory": str(folder)}
        trainer = make_trainer(
            mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=(4,)),
            callbacks={
                "summaries": Summaries(**files, every_steps=1, graph=False),
                "histograms": Histograms(**files, enabled=True),
                "images": Images(**files, data=data, best=str(folder), picture=str(folder / "picture.png")),
                "pace": Pace(folder, late=name == "late"),
            },
            steps_per_call=1,
        )
        trainer.fit(data.train, data.val, epochs=3)
    found, expected = (
        sorted(
            (split, step, value.SerializeToString())
            for split, step, value in read_values(tmp_path / name)
            if value.tag != "steps_per_second"
        )
        for name in ("late", "straight")
    )
    tags = {value.tag for _, _, value in read_values(tmp_path / "late")}
    assert tags >= {"loss", "batch_loss", "predictions", "gradient_norms"} and any("kernel" in tag for tag in tags)
    assert found == expected


def test_an_event_that_cannot_be_written_ends_training_with_the_ways_out(tmp_path):
    """At the next event, where no checkpoint comes before; nothing is written after it, however often it is tried."""
    files = EventFiles(tmp_path, step=0)
    files.write_later(tf.summary.scalar, "train", 1, {"loss": 1.0})
    files.write_later(refused, "train", 2, {"loss": 2.0})
    until_written(files)
    for again in (files.write_later, files.write):
        for step in range(3, MOST_WAITING + 4):
            with pytest.raises(SummaryError, match="no space left"):
                again(tf.summary.scalar, "train", step, {"loss": 3.0})
    with pytest.raises(SummaryError, match=r"no summaries.*\(no space left\)\. Make room"):
        files.make_durable()
    files.close()
    assert read_scalars(tmp_path) == {("train", "loss"): [(1, 1.0)]}


def test_what_is_written_at_once_raises_for_its_caller_alone(tmp_path):
    """A callback that may fail can go on, and a variable is written as it is now."""
    files, variable = EventFiles(tmp_path, step=0), tf.Variable(1.0)
    with pytest.raises(SummaryError, match="no space left"):
        files.write(refused, "train", 2, {"loss": 2.0})
    with pytest.raises(ValueError, match="scalar"):
        files.write(tf.summary.scalar, "train", 2, {"loss": [1.0, 2.0]})
    files.write(tf.summary.scalar, "train", 4, {"loss": variable})
    variable.assign(5.0)
    files.make_durable()
    files.close()
    assert read_scalars(tmp_path) == {("train", "loss"): [(4, 1.0)]}


def refused(tag: str, value: float) -> None:
    raise OSError("no space left")


def test_training_is_only_so_far_ahead_of_its_events(tmp_path):
    files, go_on, given = EventFiles(tmp_path, step=0), threading.Event(), []
    files._thread.submit(go_on.wait)

    def give() -> None:
        for step in range(MOST_WAITING + 1):
            files.write_later(tf.summary.scalar, "train", step, {"loss": float(step)})
            given.append(step)

    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(give)
        with pytest.raises(TimeoutError):
            giving.result(timeout=3)
        assert len(given) == MOST_WAITING
        go_on.set()
        giving.result()
    files.close()
    assert read_scalars(tmp_path) == {("train", "loss"): [(step, float(step)) for step in range(MOST_WAITING + 1)]}


def test_training_writes_events_while_others_are_fsynced(tmp_path, monkeypatch):
    files, begun, go_on = EventFiles(tmp_path, step=0), threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr("src.callbacks.events.fsync", slow)
    files.write(tf.summary.scalar, "train", 1, {"loss": 1.0})
    with ThreadPoolExecutor(1) as pool:
        durable = pool.submit(files.make_durable)
        assert begun.wait(10)
        files.write(tf.summary.scalar, "train", 2, {"loss": 2.0})
        go_on.set()
        durable.result()
    files.close()
    assert read_scalars(tmp_path) == {("train", "loss"): [(1, 1.0), (2, 2.0)]}


THREE_EPOCHS_DONE = SimpleNamespace(epoch=3, step=12, best=None, validated_step=0)
LINES = [json.dumps({"epoch": epoch, "step": 4 * epoch, "val/loss": 1 / epoch}) + "\n" for epoch in (1, 2, 3)]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (None, [1, 2, 3]),
        ("", [1, 2, 3]),
        ("\0" * 300, [1, 2, 3]),
        ("".join(LINES), []),
        ("".join(LINES)[:-9], [3]),
        (LINES[0] + LINES[2], [2]),
        (LINES[0] + "\0" * len(LINES[1]) + LINES[2], [2]),
        (LINES[0] + "\xff{]\n" + LINES[2], [2]),
        (LINES[0][20:] + LINES[1] + LINES[2], [1]),
        ("[1]\n" + "".join(LINES), []),
    ],
)
def test_missing_lines_are_counted_and_said_and_the_others_kept(tmp_path, caplog, text, missing):
    record = Record(tmp_path)
    record.update(status="running", epoch=3, metrics={"val/loss": 0.5})
    if text is not None:
        record.history_path.write_bytes(text.encode("latin-1"))
    kept = [epoch for epoch in (1, 2, 3) if epoch not in missing]
    assert [line["epoch"] for line in read_history(tmp_path)[0]] == kept
    for _ in range(2):  # a later resume knows it too
        caplog.clear()
        RecordCallback(record=Record(tmp_path)).on_train_begin(THREE_EPOCHS_DONE)
        assert record.read()["history_missing"] == missing
        assert (", ".join(map(str, missing)) in caplog.text) if missing else not caplog.text
    assert [line["epoch"] for line in record.history()] == kept


@pytest.mark.parametrize(
    ("there", "first_step", "missing"), [([2, 6], 0, [10]), ([6], 4, [10]), ([], 4, [6, 10]), ([2, 6, 10], 0, [])]
)
def test_missing_validations_are_counted_and_said(tmp_path, caplog, there, first_step, missing):
    """At each second step, but for those that end an epoch of four, which are in the history."""
    record = Record(tmp_path)
    record.update(status="running", parent={"config_hash": "ab", "epoch": first_step // 4, "step": first_step})
    record.history_path.write_text("".join(LINES))
    for step in there:
        record.append_validation({"epoch": 1 + step // 4, "step": step, "val/loss": 0.5})
    state = SimpleNamespace(epoch=3, step=13, epoch_step=1, best=None, validated_step=10)
    RecordCallback(record=record, validate_every_steps=2).on_train_begin(state)
    assert record.read()["validations_missing"] == missing and record.read()["history_missing"] == []
    said = f"validations.jsonl lacks what was measured at step {', '.join(map(str, missing))}, "
    assert (said in caplog.text) if missing else not caplog.text


def test_a_branch_lacks_none_of_its_parent_s_epochs(tmp_path):
    record = Record(tmp_path)
    record.update(status="running", parent={"config_hash": "ab", "epoch": 2, "step": 8})
    record.append_epoch(json.loads(LINES[2]))
    RecordCallback(record=record).on_train_begin(THREE_EPOCHS_DONE)
    assert record.read()["history_missing"] == []


@pytest.mark.parametrize(
    ("lines", "epoch", "metrics"), [(3, 2, {"val/loss": 1 / 3}), (2, 2, {}), (2, 3, {"val/loss": 0.5})]
)
def test_a_record_that_lags_behind_gets_the_numbers_of_its_epoch(tmp_path, lines, epoch, metrics):
    """Where all epochs are done, no later one would put them right."""
    record = Record(tmp_path)
    record.update(status="running", epoch=epoch, step=4 * epoch, metrics={"val/loss": 0.5})
    record.history_path.write_text("".join(LINES[:lines]))
    RecordCallback(record=record).on_train_begin(THREE_EPOCHS_DONE)
    assert {key: record.read()[key] for key in ("epoch", "step", "metrics")} == {
        "epoch": 3,
        "step": 12,
        "metrics": metrics,
    }


@pytest.mark.parametrize("content", ["", "\0" * 100])
def test_settings_that_a_power_cut_emptied_are_named(tmp_path, content):
    path = tmp_path / ".hydra" / "config.yaml"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml is empty, as a power cut"):
        load_config(tmp_path)


@pytest.mark.slow
def test_a_failing_call_never_leaves_a_completed_run_without_something(tmp_path):
    """One call; all of them: python -m benchmarks resume errors."""
    row = errors(tmp_path, 1)
    if row.remark.startswith("skipped"):
        pytest.skip(row.remark)
    assert (row.tries, row.held) == (1, 1), row


def test_a_run_that_cannot_begin_leaves_no_record(tmp_path, monkeypatch):
    """Which the same command would take for that of another run."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "begin", full)
    run = Run.of(compose([*DIGITS, "hydra.output_subdir=null"]))
    with pytest.raises(OSError, match="No space"):
        execute.execute(run)
    assert not Record(run.directory).path.exists()
