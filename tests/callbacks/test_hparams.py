"""What a run's row of the HParams table is made of; the table itself is in test_tensorboard."""

from __future__ import annotations

import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from src.callbacks.hparams import Hparams, flat_settings
from src.callbacks.summaries import Summaries, read_scalars
from src.data.pipeline import InMemory
from src.training.trainer import Interrupted
from tests.callbacks.reading import written
from tests.training.test_trainer import InterruptAt, Recorder, digits, small_trainer

CONFIG = {"model._target_": "src.models.cnn.cnn", "model.filters": 16, "optimizer.learning_rate": 0.003}


def fit(folder, *, epochs=2, trainer=None, **callbacks):
    trainer = trainer or small_trainer(monitor="val/accuracy", mode="max")
    trainer.callbacks = {
        "summaries": Summaries(directory=str(folder / "summaries")),
        "hparams": Hparams(directory=str(folder / "summaries"), record=str(folder)),
        **callbacks,
    }
    images, labels = digits(64)
    train, val = InMemory(images, labels, batch_size=16, shuffle_seed=0), InMemory(images, labels, batch_size=64)
    trainer.fit(train, val, epochs=epochs)
    return trainer


def plugin_data(folder, split="val") -> dict[str, bytes]:
    events = EventAccumulator(str(folder / "summaries" / split))
    events.Reload()
    return events.PluginTagToContent(metadata.PLUGIN_NAME)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"id": "1a2b3c4d", "choices": {"model": "cnn"}, "config": CONFIG}))
    return tmp_path


def test_settings_and_success(run):
    fit(run)
    found = plugin_data(run)
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == "1a2b3c4d"
    assert {key: start.hparams[key].WhichOneof("kind") for key in start.hparams} == {
        "model": "string_value",
        "model.filters": "number_value",
        "optimizer.learning_rate": "number_value",
    }
    assert start.hparams["optimizer.learning_rate"].number_value == 0.003
    end = metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.STATUS_SUCCESS


def test_the_best_epoch(run):
    """The last point of each is the best epoch's."""
    recorder = Recorder()
    trainer = fit(run, epochs=2, recorder=recorder)
    trainer.optimizer.learning_rate = 3.0
    fit(run, epochs=4, trainer=trainer, recorder=recorder)
    best, found = trainer.state.best, written(run / "summaries")
    metrics = recorder.epochs[best.epoch - 1]
    assert best.epoch <= 2
    last = {tag: points[-1] for (split, tag), points in found.items() if split == "val" and tag.startswith("best")}
    assert last["best/epoch"] == (best.step, best.epoch)
    assert last["best/val/accuracy"] == (best.step, pytest.approx(best.value))
    for name in ("train/loss", "train/accuracy", "val/loss"):
        assert last[f"best_epoch/{name}"] == (best.step, pytest.approx(metrics[name]))
    assert len(last) == 5
    own = {"loss", "accuracy", "learning_rate"}
    assert {tag for split, tag in read_scalars(run / "summaries") if split == "val"} == own | set(last)
    assert {split for split, _ in found} == {"train", "val"}  # each is a run to TensorBoard


@pytest.mark.exhaustive
def test_the_split_is_that_of_the_monitor(run):
    fit(run, trainer=small_trainer(monitor="train/loss", mode="min"))
    found = written(run / "summaries")
    assert {split for split, tag in found if tag.startswith(("best/", "_hparams_"))} == {"train"}


def test_a_run_that_began_with_one_of_its_own_keeps_it(run):
    """As it was before version 1: the table has it once, and all of its bests."""
    interrupt = InterruptAt(6)
    interrupt.trainer = trainer = small_trainer(monitor="val/accuracy", mode="max")
    with pytest.raises(Interrupted):
        fit(run, trainer=trainer, interrupt=interrupt)
    for path in (run / "summaries" / "val").glob("events*"):
        path.rename(run / "summaries" / path.name)
    trainer.resume()
    fit(run, trainer=trainer)
    assert set(plugin_data(run, "")) == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    found = written(run / "summaries")
    assert {split for split, tag in found if tag.startswith(("best/", "_hparams_"))} == {""}


@pytest.mark.exhaustive
def test_written_once_however_often_it_is_resumed(run):
    """An interrupted run is no success yet."""
    interrupt = InterruptAt(6)
    interrupt.trainer = trainer = small_trainer(monitor="val/accuracy", mode="max")
    with pytest.raises(Interrupted):
        fit(run, trainer=trainer, interrupt=interrupt)
    assert set(plugin_data(run)) == {metadata.SESSION_START_INFO_TAG}
    trainer.resume()
    fit(run, trainer=trainer)
    fit(run, trainer=trainer)
    found = written(run / "summaries")
    assert len(found["val", metadata.SESSION_START_INFO_TAG]) == len(found["val", metadata.SESSION_END_INFO_TAG]) == 1
    assert all(len({step for step, _ in points}) == len(points) for points in found.values())


def test_without_a_record_there_is_nothing_to_say(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "src.callbacks.hparams")
    assert fit(tmp_path).state.epoch == 2
    assert metadata.SESSION_START_INFO_TAG not in plugin_data(tmp_path)
    assert "run.json does not say the config" in caplog.text


def test_flat_settings():
    """Numbers stay numbers, so that they can be sorted; what is no value of a table becomes text."""
    config = {"a": 1, "b": 0.5, "c": True, "d": "x", "e": [1, 2], "f": None, "g._target_": "y", "g._partial_": True}
    assert flat_settings({"g": "option"}, config) == {
        "g": "option",
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "x",
        "e": "[1, 2]",
    }
