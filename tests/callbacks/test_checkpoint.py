"""Saving goes on beside training: the state of its own step, in order, and a failure never goes unnoticed."""

from __future__ import annotations

import json
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.callbacks.checkpoint import Checkpoint
from src.data.pipeline import InMemory
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints, best_weights
from src.training.manifest import CheckpointError, listed, read_manifest
from src.training.side_effects import side_effects
from src.training.trainer import Trainer
from tests.training.test_trainer import InterruptAt

WORDS, STEPS, BATCH = 50, 24, 4
EVERY = 10  # steps between two saves


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def fit(directory, *, epochs=1, every_steps=EVERY, **callbacks: Callback) -> Trainer:
    """Train an embedding, which steps update in place, row by row, as they do the optimizer's slots of it."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3], dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Embedding(WORDS, 4)(inputs))))
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.Adagrad(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        callbacks={**callbacks, "checkpoint": Checkpoint(directory=str(directory), every_steps=every_steps)},
        steps_per_call=1,
    )
    for callback in callbacks.values():
        callback.trainer = trainer
    words = np.random.default_rng(0).integers(0, WORDS, [STEPS * BATCH, 3]).astype(np.int32)
    trainer.fit(InMemory(words, words[:, 0] % 2, batch_size=BATCH), epochs=epochs)
    return trainer


def values(trainer: Trainer) -> dict[str, np.ndarray]:
    groups = trainer.state.variables().items()
    return {f"{group}/{place}": v.numpy() for group, listed in groups for place, v in enumerate(listed)}


class Held(Callback):
    """Holds the save of a step until training is `EVERY` steps further."""

    def __init__(self, directory, patch, *, step: int = EVERY) -> None:
        self.step, self._directory, self._go_on, write = step, directory, threading.Event(), Checkpoints.write

        def late(checkpoints, snapshot):
            assert snapshot.step != step or self._go_on.wait(60)
            return write(checkpoints, snapshot)

        patch.setattr(Checkpoints, "write", late)

    def on_log(self, state, metrics):
        state.memory(self.name)["step"] = state.step
        if state.step == self.step:
            self.at_save = values(self.trainer)
        if state.step == self.step + EVERY:
            self.later, self.saved_before = values(self.trainer), listed(self._directory)
            self._go_on.set()


def test_a_late_save_has_the_bits_of_its_own_step(tmp_path, monkeypatch):
    held = Held(tmp_path, monkeypatch)
    trainer = fit(tmp_path, held=held)
    step = tf.function(trainer.learner.train_step).get_concrete_function(
        tf.TensorSpec([BATCH, 3], tf.int32), tf.TensorSpec([BATCH], tf.int32)
    )
    in_place = [effect for effect in side_effects(step) if effect.op.startswith("ResourceScatter")]
    assert len(in_place) == 2  # the embedding and its slot
    copies = tf.nest.flatten(list(trainer.state.snapshot().tensors.values()))
    for copy, variable in zip(copies, trainer.state.all_variables(), strict=True):
        assert not np.shares_memory(np.asarray(copy), np.asarray(variable.value.read_value()))
    assert held.saved_before == []
    assert [read_manifest(tmp_path / name)["step"] for name in listed(tmp_path)] == [EVERY, 2 * EVERY, STEPS]
    for name, expected in (("ckpt-1", held.at_save), ("ckpt-2", held.later), ("ckpt-3", values(trainer))):
        reader = tf.train.load_checkpoint(str(tmp_path / name))
        for key, value in expected.items():
            np.testing.assert_array_equal(reader.get_tensor(f"{key}/.ATTRIBUTES/VARIABLE_VALUE"), value)
        progress = json.loads(reader.get_tensor("progress/.ATTRIBUTES/VARIABLE_VALUE"))
        assert progress["step"] == progress["memory"]["held"]["step"] == read_manifest(tmp_path / name)["step"]
    changed = [key for key, value in held.at_save.items() if (value != held.later[key]).any()]
    assert {"model/0", "model/1", "model/2"} <= set(changed) and len(changed) > 6  # slots and counts of steps, too


class Slow(Callback):
    """Gives the thread that writes the time it needs, before the checkpoint's own `on_log`."""

    def on_log(self, state, metrics):
        if state.step > EVERY:
            time.sleep(0.3)


def test_a_save_that_fails_ends_training_at_the_next_step(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.training.manifest.replace", full)
    slow = Slow()
    with pytest.raises(CheckpointError, match=r"no checkpoint could be written in .*No space left"):
        fit(tmp_path, slow=slow)
    assert slow.trainer.state.step == EVERY + 1
    assert list(tmp_path.iterdir()) == []


class Ends(Callback):
    ended = False

    def on_train_end(self, state):
        self.ended = True


def test_training_has_no_end_without_its_last_save(tmp_path, monkeypatch):
    monkeypatch.setattr("src.training.checkpoints.write_manifest", lambda *_, **__: time.sleep(0.2) or 1 / 0)
    ends = Ends()
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, every_steps=None, ends=ends)
    assert not ends.ended


class Broken(Callback):
    """Fails after a save has failed, too."""

    def on_log(self, state, metrics):
        if state.step > EVERY:
            raise LookupError("broken on purpose")


def test_a_save_that_fails_hides_no_other_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("src.training.checkpoints.write_manifest", lambda *_, **__: 1 / 0)
    with pytest.raises(LookupError):
        fit(tmp_path, broken=Broken())
    assert "division by zero" in caplog.text


class ReadsBest(Callback):
    """What is exported when training ends, or read by a callback in the epoch after the best one."""

    def __init__(self, best) -> None:
        self._best = best

    def on_epoch_end(self, state, metrics):
        if state.improved:
            self.at_best = values(self.trainer)

    def on_log(self, state, metrics):
        if state.step == STEPS + 1:
            self.on_train_end(state)

    def on_train_end(self, state):
        assert state.best
        with best_weights(state, self._best):
            read = values(self.trainer)
        assert all((read[key] == value).all() for key, value in self.at_best.items() if key.startswith("model"))


def test_who_reads_the_best_weights_waits_for_their_save(tmp_path, monkeypatch):
    write = Checkpoints.write
    monkeypatch.setattr(Checkpoints, "write", lambda *given: (time.sleep(0.2), write(*given))[1])
    fit(tmp_path, epochs=2, every_steps=None, reads=ReadsBest(tmp_path / "best"))


def test_an_interruption_waits_for_its_save(tmp_path, monkeypatch):
    write = Checkpoints.write

    def fails(checkpoints, snapshot):
        if snapshot.step > EVERY:
            raise CheckpointError("on purpose")
        return write(checkpoints, snapshot)

    monkeypatch.setattr(Checkpoints, "write", fails)
    with pytest.raises(CheckpointError, match="on purpose"):  # and not Interrupted, which says that it is saved
        fit(tmp_path, interrupt=InterruptAt(EVERY + 1))
    assert [read_manifest(tmp_path / name)["step"] for name in listed(tmp_path)] == [EVERY]
