"""Checkpoints hold everything, are never loaded damaged, and leave nothing behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.data.pipeline import InMemory
from src.models.mlp import mlp
from src.training.checkpoints import Checkpoints
from src.training.manifest import CheckpointError
from tests.training.test_trainer import assert_same, digits, make_trainer, small_trainer, weights


def trained(seed: int = 0, epochs: int = 1):
    trainer = small_trainer(seed)
    images, labels = digits(64)
    trainer.fit(InMemory(images, labels, batch_size=16, shuffle_seed=0), epochs=epochs)
    return trainer


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    checkpoints, trainer, held = Checkpoints(folder, max_to_keep=3), small_trainer(), []
    images, labels = digits(64)
    for epochs in (1, 2, 3):
        trainer.fit(InMemory(images, labels, batch_size=16, shuffle_seed=0), epochs=epochs)
        checkpoints.save(trainer.state)
        held.append(weights(trainer))
    return folder, held


@pytest.fixture
def saved(saved_once, tmp_path):
    """Three checkpoints of a growing run, newest last, with the weights of each."""
    folder, held = saved_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path, held


def test_restores_everything(tmp_path):
    """Weights, seeds, optimizer, metrics, progress and what callbacks remember."""
    trainer = trained(epochs=2)
    trainer.state.memory("early_stopping").update(best=0.1 + 0.2, waited_epochs=3)
    trainer.state.stop_reason = "enough"
    trainer.evaluate(InMemory(*digits(10), batch_size=10))
    Checkpoints(tmp_path).save(trainer.state)

    other = small_trainer(seed=5)
    assert Checkpoints(tmp_path).restore(other.state).name == "ckpt-1"
    assert_same(weights(other), weights(trainer))
    for key in ("step", "epoch", "best", "stop_reason"):
        assert getattr(other.state, key) == getattr(trainer.state, key)
    assert other.state.memory("early_stopping") == {"best": 0.1 + 0.2, "waited_epochs": 3}
    assert any("seed" in v.path for v in other.model.variables)  # of dropout, which Keras checkpoints leave out


def test_tensorflow_reads_them(saved):
    folder, held = saved
    assert os.path.basename(tf.train.latest_checkpoint(str(folder))) == "ckpt-3"
    reader = tf.train.load_checkpoint(str(folder))
    np.testing.assert_array_equal(reader.get_tensor("model/0/.ATTRIBUTES/VARIABLE_VALUE"), held[-1][0])
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(folder), max_to_keep=3)
    assert [os.path.basename(path) for path in manager.checkpoints] == ["ckpt-1", "ckpt-2", "ckpt-3"]


def test_keeps_the_newest(tmp_path):
    checkpoints, trainer = Checkpoints(tmp_path, max_to_keep=2), trained()
    for _ in range(5):
        checkpoints.save(trainer.state)
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"checkpoint", "ckpt-4", "ckpt-5"}


def damage(path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        position = rng.randrange(len(content))
        content[position] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        content = content[: rng.randrange(len(content))]
    elif how == "empty":
        content = bytearray()
    else:
        content = bytearray(rng.randbytes(len(content)))
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "garbage"])
@pytest.mark.parametrize("kind", ["data-00000-of-00001", "index", "json", "state file"])
def test_damage_is_named_and_passed_over(saved, how, kind, caplog):
    folder, held = saved
    path = folder / ("checkpoint" if kind == "state file" else f"ckpt-3.{kind}")
    other, rng = small_trainer(seed=9), random.Random(f"{how} {kind}")
    intact = path.read_bytes()
    for _ in range(3):
        damage(path, how, rng)
        caplog.clear()
        prefix = Checkpoints(folder).restore(other.state)
        if kind == "state file":
            assert prefix.name == "ckpt-3"
            assert_same(weights(other), held[2])
        else:
            assert prefix.name == "ckpt-2"
            assert_same(weights(other), held[1])
            assert "ckpt-3 is damaged" in caplog.text
            assert path.name in caplog.text
        path.write_bytes(intact)


def test_all_damaged_is_no_fresh_start(saved):
    folder, _ = saved
    for path in folder.glob("*.index"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all 3 checkpoints .* rerun=true"):
        Checkpoints(folder).restore(small_trainer().state)


def test_goes_on_after_damage(saved):
    """The next save neither overwrites nor trusts the damaged one."""
    folder, _ = saved
    (folder / "ckpt-3.index").write_bytes(b"")
    trainer, checkpoints = small_trainer(), Checkpoints(folder)
    checkpoints.restore(trainer.state)
    assert checkpoints.save(trainer.state).name == "ckpt-4"
    assert Checkpoints(folder).restore(trainer.state).name == "ckpt-4"


def test_another_architecture_is_refused(tmp_path):
    Checkpoints(tmp_path).save(trained().state)
    keras.utils.clear_session()
    other = make_trainer(mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=(16,), dropout=0.2))
    before = weights(other)
    with pytest.raises(ValueError, match=r"does not fit this model: its variable \d+ is .*\[\d+, 8\].*\[\d+, 16\]"):
        Checkpoints(tmp_path).restore(other.state)
    assert_same(weights(other), before)


def test_another_optimizer_is_refused_but_weights_are_taken(tmp_path):
    trainer = trained()
    Checkpoints(tmp_path).save(trainer.state)
    other = small_trainer(seed=3, optimizer=keras.optimizers.Adam(0.1))
    with pytest.raises(ValueError, match="does not fit this optimizer"):
        Checkpoints(tmp_path).restore(other.state)
    Checkpoints(tmp_path).restore_weights(other.state)
    assert_same([v.numpy() for v in other.model.variables], [v.numpy() for v in trainer.model.variables])
    assert other.state.step == 0


def test_no_checkpoint_yet(tmp_path):
    assert Checkpoints(tmp_path / "nothing").restore(small_trainer().state) is None


def test_a_save_that_fails_leaves_the_last_good_one(saved, monkeypatch):
    """As on a full disk: one clear error, no leftovers, the same state restored."""
    folder, held = saved
    trainer = trained()
    before = sorted(path.name for path in folder.iterdir())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.training.manifest.replace", full)
    with pytest.raises(CheckpointError, match=r"no checkpoint could be written in .*No space left"):
        Checkpoints(folder).save(trainer.state)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == before
    Checkpoints(folder).restore(trainer.state)
    assert_same(weights(trainer), held[-1])


def test_what_reads_back_as_another_value_does_not_count(tmp_path, monkeypatch):
    def wrong(*, tensors, save=tf.raw_ops.SaveV2, **given):
        save(tensors=[tensors[0] + 1, *tensors[1:]], **given)

    monkeypatch.setattr(tf.raw_ops, "SaveV2", wrong)
    with pytest.raises(CheckpointError, match="kernel reads back as another value"):
        Checkpoints(tmp_path).save(small_trainer().state)
    assert not list(tmp_path.iterdir())


def save_for_ever(folder: str) -> None:
    """In a child: checkpoints whose every weight is their number."""
    trainer, checkpoints = small_trainer(), Checkpoints(folder, max_to_keep=2)
    restored = checkpoints.restore(trainer.state)
    first = trainer.state.step
    assert restored is None or all(np.all(v.numpy() == first) for v in trainer.model.trainable_variables)
    for step in range(first + 1, 10**6):
        for variable in trainer.model.trainable_variables:
            variable.assign(np.full(variable.shape, step))
        trainer.state.count_steps(step - trainer.state.step)
        checkpoints.save(trainer.state)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_saves(tmp_path):
    """kill -9 at random moments of saving: each time the newest whole checkpoint is found, nothing else stays."""
    context, rng, steps = multiprocessing.get_context("spawn"), random.Random(0), [0]
    for _ in range(3):
        child = context.Process(target=save_for_ever, args=(str(tmp_path),))
        child.start()
        start, seen = time.monotonic(), steps[-1]
        while time.monotonic() - start < 60 and _newest_step(tmp_path) < seen + 3:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        trainer = small_trainer()
        checkpoints = Checkpoints(tmp_path, max_to_keep=2)
        checkpoints.restore(trainer.state)
        steps.append(trainer.state.step)
        assert steps[-1] >= seen + 3
        assert all(np.all(v.numpy() == steps[-1]) for v in trainer.model.trainable_variables)
        checkpoints.save(trainer.state)
        names = {path.name for path in tmp_path.iterdir()}
        assert len({name.split(".")[0] for name in names - {"checkpoint"}}) == 2, names
        assert not [name for name in names if "temp" in name or "tmp" in name]


def _newest_step(folder) -> int:
    steps = [0]
    for path in folder.glob("ckpt-*.json"):
        try:
            steps.append(json.loads(path.read_text())["step"])
        except (OSError, ValueError):
            continue
    return max(steps)
