"""What TensorBoard reads: the tags, each step once, also after a crash and a resume."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.callbacks.events import EventFiles, last_steps
from src.callbacks.summaries import Summaries
from src.data.pipeline import InMemory
from src.training.trainer import Interrupted
from tests.training.test_trainer import InterruptAt, Recorder, digits, small_trainer


class Norms(Recorder):
    """Notes the gradient norms too."""

    def __init__(self):
        super().__init__()
        self.norms = []

    def on_log(self, state, metrics):
        super().on_log(state, metrics)
        self.norms += state.gradient_norms.tolist()


def fit(folder, *, epochs: int, every_steps: int = 2, **callbacks):
    recorder = Norms()
    trainer = small_trainer(
        callbacks={"summaries": Summaries(directory=str(folder), every_steps=every_steps), "recorder": recorder}
        | callbacks,
        monitor="val/accuracy",
        mode="max",
    )
    images, labels = digits(64)
    train, val = InMemory(images, labels, batch_size=16, shuffle_seed=0), InMemory(images, labels, batch_size=64)
    return trainer, recorder, lambda: trainer.fit(train, val, epochs=epochs)


def scalars(folder) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Split -> tag -> (step, value) as written, duplicates included."""
    found = {}
    for split in sorted(path.name for path in folder.iterdir()):
        events = EventAccumulator(str(folder / split), size_guidance={"tensors": 0}, purge_orphaned_data=False)
        events.Reload()
        found[split] = {
            tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
        }
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of three epochs of four steps, its trainer, and what it measured."""
    folder = tmp_path_factory.mktemp("summaries")
    trainer, recorder, run = fit(folder, epochs=3)
    run()
    return folder, trainer, recorder


def test_tags_and_values(trained):
    """Train and val carry the same tags, so that they overlay; the values are those that training measured."""
    folder, trainer, recorder = trained
    found = scalars(folder)
    shared = {"loss", "accuracy", "learning_rate"}
    assert set(found["val"]) == shared
    assert set(found["train"]) == shared | {"batch_loss", "gradient_norm", "steps_per_second"}
    for split in ("train", "val"):
        for tag in ("loss", "accuracy"):
            expected = {4 * (i + 1): metrics[f"{split}/{tag}"] for i, metrics in enumerate(recorder.epochs)}
            assert dict(found[split][tag]) == pytest.approx(expected)
    losses = {step: recorder.losses[step - 1] for step in range(2, 13, 2)}
    assert dict(found["train"]["batch_loss"]) == pytest.approx(losses)
    assert dict(found["train"]["gradient_norm"]) == {step: recorder.norms[step - 1] for step in range(2, 13, 2)}
    assert found["train"]["learning_rate"][-1] == (12, pytest.approx(float(trainer.optimizer.learning_rate)))


def test_graph_of_the_model(trained):
    events = EventAccumulator(str(trained[0] / "train"))
    events.Reload()
    names = " ".join(node.name for node in events.Graph().node).lower()
    assert "logits" in names
    assert "dense" in names


@pytest.mark.sample(1)
@pytest.mark.parametrize("torn", [False, True])
def test_no_step_twice_after_a_resume(trained, tmp_path, torn):
    """A run that went on past its last checkpoint and died writes only what is missing."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    if torn:
        path = next(tmp_path.glob("train/events*"))
        path.write_bytes(path.read_bytes()[:-7])
    interrupt = InterruptAt(5)
    trainer, _, run = fit(tmp_path / "other", epochs=4, interrupt=interrupt)
    interrupt.trainer = trainer
    with pytest.raises(Interrupted):
        run()
    trainer.resume()
    trainer.callbacks = {"summaries": Summaries(directory=str(tmp_path), every_steps=2)}
    images, labels = digits(64)
    data = InMemory(images, labels, batch_size=16, shuffle_seed=0)
    trainer.fit(data, InMemory(images, labels, batch_size=64), epochs=4)
    found = scalars(tmp_path)
    within = ("batch_loss", "gradient_norm")
    for split, tags in {"train": ("loss", "accuracy", *within), "val": ("loss", "accuracy")}.items():
        for tag in tags:
            steps = [step for step, _ in found[split][tag]]
            assert max(Counter(steps).values()) == 1, (split, tag, steps)
            assert steps == list(range(2, 17, 2) if tag in within else range(4, 17, 4))


def test_last_steps(trained, tmp_path):
    found = last_steps(trained[0])
    assert found["train", "batch_loss"] == 12
    assert found["val", "loss"] == 12
    assert last_steps(tmp_path / "nothing") == {}


def test_a_folder_that_cannot_be_written_is_named_before_the_first_step(tmp_path):
    (tmp_path / "train").write_text("a file where a folder should be")
    _, recorder, run = fit(tmp_path, epochs=2)
    with pytest.raises(OSError, match=rf"no summaries could be written in {tmp_path} \(Not a directory\)"):
        run()
    assert not recorder.losses


def test_a_folder_that_is_removed_meanwhile_is_said_to_be(tmp_path):
    files = EventFiles(tmp_path / "summaries", step=0)
    files.write(tf.summary.scalar, "train", 1, {"loss": 0.5})
    shutil.rmtree(tmp_path / "summaries")
    removed = r"No such file.* was removed .* the last checkpoint where one is left, and else starts anew$"
    with pytest.raises(OSError, match=removed):
        files.make_durable()
    files.close()


def test_wrong_interval():
    with pytest.raises(ValueError, match="every_steps is 0"):
        Summaries(directory="x", every_steps=0)


def test_a_nan_is_written_as_such(tmp_path):
    """A metric that is NaN shows as NaN in TensorBoard; it ends nothing."""
    callback = Summaries(directory=str(tmp_path), graph=False)
    trainer = small_trainer()
    callback.on_train_begin(trainer.state)
    trainer.state.count_steps(1 - trainer.state.step)
    callback.on_epoch_end(trainer.state, {"val/loss": float("nan")})
    callback.close()
    assert np.isnan(scalars(tmp_path)["val"]["loss"][0][1])


def test_a_start_that_saved_nothing_leaves_no_trace(trained, tmp_path):
    """Killed before its first checkpoint, a run starts anew: so do its summaries."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    _, _, run = fit(tmp_path, epochs=2)
    run()
    found = scalars(tmp_path)
    assert [step for step, _ in found["train"]["batch_loss"]] == [2, 4, 6, 8]
    assert [step for step, _ in found["val"]["loss"]] == [4, 8]


def test_files_that_cannot_be_read_are_named(tmp_path):
    """What was written before is then not known, so nothing is written that might be there."""
    (tmp_path / "val" / "events.out.tfevents.folder").mkdir(parents=True)
    callback = Summaries(directory=str(tmp_path))
    trainer = small_trainer()
    trainer.state.count_steps(4)
    with pytest.raises(OSError, match=r"events\.out\.tfevents\.folder"):
        callback.on_train_begin(trainer.state)
    assert not (tmp_path / "train").exists()


def test_a_branch_has_the_graph_of_its_model(tmp_path):
    """It begins at a step of its parent's, with no event file of its own."""
    callback = Summaries(directory=str(tmp_path))
    trainer = small_trainer()
    trainer.state.count_steps(4)
    callback.on_train_begin(trainer.state)
    callback.close()
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert events.Tags()["graph"]
