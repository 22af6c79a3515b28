"""A profile of the asked steps, once in a run, and the same training with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from src.callbacks.profile import Profile
from src.callbacks.summaries import Summaries
from src.data.pipeline import InMemory
from src.training.trainer import Interrupted
from tests.training.test_trainer import InterruptAt, assert_same, digits, small_trainer, weights

ONCE_A_STEP = ":SparseSoftmaxCrossEntropyWithLogits", ":LogSoftmax"  # the kernel, or what it is made of


def fit(folder, *, epochs=3, trainer=None, before=None, enabled=True, **options):
    """Ten steps an epoch, in calls of seven."""
    trainer = trainer or small_trainer(steps_per_call=7)
    own = Profile(directory=str(folder), enabled=enabled, **options)
    trainer.callbacks = {"summaries": Summaries(directory=str(folder), graph=False), "profile": own}
    trainer.callbacks |= {"interrupt": before} if before else {}
    images, labels = digits(160)
    trainer.fit(InMemory(images, labels, batch_size=16, shuffle_seed=0), epochs=epochs)
    return trainer


def profiles(folder: Path) -> list[Path]:
    return sorted(folder.glob("train/plugins/profile/*/*.xplane.pb"))


def steps_in(path: Path) -> int:
    """How many training steps a profile has."""
    found = 0
    for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        found += sum(names[e.metadata_id].endswith(ONCE_A_STEP) for line in plane.lines for e in line.events)
    return found


def stopped() -> bool:
    """Whether the profiler is free for another."""
    tf.profiler.experimental.start("")
    tf.profiler.experimental.stop(save=False)
    return True


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 11), ({"first_step": 1, "last_step": 4}, 4), ({"first_step": 25, "last_step": 1000}, 6)],
    ids=["10 to 20", "from the first", "to the end"],
)
def test_the_asked_steps(tmp_path, options, steps):
    fit(tmp_path, **options)
    (path,) = profiles(tmp_path)
    assert steps_in(path) == steps
    assert stopped()


@pytest.mark.exhaustive
def test_not_twice_in_a_run(tmp_path):
    """Resumed past it, or from before it."""
    trainer = fit(tmp_path)
    (path,) = profiles(tmp_path)
    fit(tmp_path, trainer=trainer, epochs=4)
    fit(tmp_path)
    assert profiles(tmp_path) == [path]


def test_interrupted_within_it(tmp_path):
    """What there is is kept."""
    interrupt = InterruptAt(15)
    interrupt.trainer = trainer = small_trainer(steps_per_call=7)
    with pytest.raises(Interrupted):
        fit(tmp_path, trainer=trainer, before=interrupt)
    (path,) = profiles(tmp_path)
    assert steps_in(path) == 6 and stopped()


@pytest.mark.exhaustive
def test_a_run_resumed_past_it_is_not_profiled(tmp_path):
    trainer = fit(tmp_path / "before", enabled=False)
    fit(tmp_path / "after", trainer=trainer, epochs=4)
    assert profiles(tmp_path / "after") == []


@pytest.mark.exhaustive
def test_training_is_the_same_with_and_without(tmp_path):
    one, other = (fit(tmp_path / str(on), enabled=on) for on in (False, True))
    assert_same(weights(one), weights(other))
    assert [len(profiles(tmp_path / str(on))) for on in (False, True)] == [0, 1]


def test_another_profiler_is_a_warning(tmp_path, caplog):
    tf.profiler.experimental.start(str(tmp_path / "other"))
    try:
        assert fit(tmp_path).state.epoch == 3
    finally:
        tf.profiler.experimental.stop(save=False)
    assert caplog.text.count("Another profiler is running") == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("there", [False, True])
def test_what_is_missing_to_look_at_it_is_said(tmp_path, caplog, monkeypatch, there):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there or None if name == "xprof" else found(name))
    fit(tmp_path, epochs=1)
    assert ("pip install -c constraints.txt -e '.[profile]'" in caplog.text) == (not there)


@pytest.mark.parametrize("steps", [(0, 5), (6, 5)])
def test_wrong_steps(steps):
    with pytest.raises(ValueError, match=f"first_step is {steps[0]}.*must be"):
        Profile(directory="", first_step=steps[0], last_step=steps[1])
