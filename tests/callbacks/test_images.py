"""The pictures are of the right examples, weights and steps, and nothing of training changes for them."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.callbacks.checkpoint import Checkpoint
from src.callbacks.images import Images
from src.callbacks.summaries import Summaries
from src.common.pictures import confusion_counts, confusion_picture, examples_sheet
from src.data.digit_scenes.digits import load_digits
from src.data.digit_scenes.scenes import compose_scene
from src.data.images.image_data import ImageData
from src.data.pipeline import to_float
from src.models.unet import unet
from src.training.checkpoints import best_weights
from src.training.trainer import Interrupted
from tests.callbacks.reading import decoded, pixels, written
from tests.training.test_trainer import InterruptAt, Recorder, assert_same, make_trainer, small_trainer, weights

DIGITS, LABELS = load_digits()


def digits_data(*, stream: bool = False, val: bool = True) -> ImageData:
    splits = {"train": (DIGITS[:64], LABELS[:64]), "val": (DIGITS[64:114], LABELS[64:114]) if val else None}
    if stream:
        splits = {name: tf.data.Dataset.from_tensor_slices(arrays) for name, arrays in splits.items() if arrays}
    return ImageData(**splits, num_classes=10, batch_size=16, seed=0)


def fit(folder, data, *, epochs=2, count=20, trainer=None, images=True, **callbacks):
    """Train with pictures of the first `count` examples, which are more than a batch holds."""
    trainer = trainer or small_trainer(monitor="val/accuracy" if data.val else "train/accuracy", mode="max")
    own = Images(
        data=data,
        directory=str(folder / "summaries"),
        best=str(folder / "checkpoints/best"),
        picture=str(folder / "predictions.png"),
        examples=count,
    )
    trainer.callbacks = {
        "summaries": Summaries(directory=str(folder / "summaries")),
        **({"images": own} if images else {}),
        **callbacks,
        "checkpoint": Checkpoint(directory=str(folder / "checkpoints")),
    }
    trainer.fit(data.train, data.val, epochs=epochs)
    return trainer


def predicted(trainer, images) -> np.ndarray:
    return trainer.model(to_float(tf.constant(images)), training=False).numpy().argmax(-1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "arrays"])
@pytest.mark.parametrize("val", [True, False], ids=["val", "no val"])
def test_labels(tmp_path, stream, val):
    """Each epoch with its own weights, always the first examples; at the end the best weights, on the whole split."""
    data = digits_data(stream=stream, val=val)
    images, labels = (DIGITS[64:114], LABELS[64:114]) if val else (DIGITS[:64], LABELS[:64])
    split, names = "val" if val else "train", data.class_names
    trainer = fit(tmp_path, data, epochs=2)
    trainer.optimizer.learning_rate = 3.0
    fit(tmp_path, data, epochs=4, trainer=trainer)
    best = trainer.state.best
    assert best.epoch <= 2
    found = written(tmp_path / "summaries")
    steps, sheets = zip(*found[split, "predictions"], strict=True)
    assert steps == (4, 8, 12, 16)
    now = examples_sheet(images[:20], labels[:20], predicted(trainer, images[:20]), class_names=names)
    np.testing.assert_array_equal(pixels(sheets[-1]), now)

    with best_weights(trainer.state, tmp_path / "checkpoints/best"):
        of_best = predicted(trainer, images)
    sheet = examples_sheet(images[:20], labels[:20], of_best[:20], class_names=names)
    np.testing.assert_array_equal(decoded((tmp_path / "predictions.png").read_bytes()), sheet)
    np.testing.assert_array_equal(pixels(sheets[best.epoch - 1]), sheet)
    (step, matrix) = found[split, "confusion"][-1]
    counts = confusion_counts(labels, of_best, 10)
    assert step == best.step and counts.sum() == len(images)
    title = f"{split}, epoch {best.epoch}"
    np.testing.assert_array_equal(pixels(matrix), confusion_picture(counts, names, title=title))
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []


def test_masks(tmp_path):
    """In the colours of their classes; a pixel that counts for nothing is in no count."""
    scenes = [compose_scene("train", index) for index in range(20)]
    images, masks = np.stack([s.image for s in scenes]), np.stack([s.mask[..., 0] for s in scenes]).astype(np.int32)
    data = ImageData(train=(images, masks), val=(images[:9], masks[:9]), num_classes=11, batch_size=4, seed=0)
    trainer = make_trainer(unet(input_shape=(48, 48, 3), num_classes=11, filters=2, depth=1))
    trainer.state.monitor = "val/loss"
    fit(tmp_path, data, epochs=1, count=3, trainer=trainer)
    expected = examples_sheet(images[:3], masks[:3], predicted(trainer, images[:3]), class_names=data.class_names)
    np.testing.assert_array_equal(decoded((tmp_path / "predictions.png").read_bytes()), expected)
    (_, sheet), *_ = written(tmp_path / "summaries")["val", "predictions"]
    np.testing.assert_array_equal(pixels(sheet), expected)
    assert len(list((tmp_path / "summaries/val").iterdir())) == 1  # shared with the curves

    masks[:, :10], masks[:, -10:] = 255, 255
    splits = {"train": (images, masks), "val": (images[:9], masks[:9])}
    data = ImageData(**splits, num_classes=11, batch_size=4, seed=0, ignore_label=255)
    callback = Images(data=data, directory="", best="", picture="", examples=3)
    assert callback._confusion(trainer.state).sum() == 9 * 28 * 48
    masks[masks == 255] = 0
    shown = examples_sheet(images[:3], masks[:3], predicted(trainer, images[:3]), class_names=data.class_names)
    np.testing.assert_array_equal(callback._sheet(callback._answers(trainer.state)), shown)


class AlwaysRandom(keras.layers.Layer):
    """Draws random numbers when it predicts as well, as a model of uncertainty does."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return keras.random.dropout(inputs, 0.3, seed=self.seeds)


def random_trainer(**options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([8, 8, 1])
    outputs = keras.layers.Dense(10)(AlwaysRandom()(keras.layers.Flatten()(inputs)))
    return make_trainer(keras.Model(inputs, outputs), **options)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("stream", "make"), [(True, small_trainer), (False, random_trainer)], ids=["stream", "random when it predicts"]
)
def test_training_is_the_same_with_and_without(tmp_path, stream, make):
    """Batch normalisation's averages, dropout's seeds and the optimizer among it, and every metric."""
    recorders = Recorder(), Recorder()
    trainers = []
    for shown, recorder in zip((False, True), recorders, strict=True):
        made, data = make(monitor="val/accuracy", mode="max"), digits_data(stream=stream)
        trainers.append(fit(tmp_path / str(shown), data, epochs=2, trainer=made, images=shown, recorder=recorder))
    assert (tmp_path / "True/predictions.png").exists() and not (tmp_path / "False/predictions.png").exists()
    assert_same(weights(trainers[0]), weights(trainers[1]))
    assert recorders[0].epochs == recorders[1].epochs


def test_none_twice_after_a_resume(tmp_path):
    """A run that went on past its last checkpoint and died draws only what is missing."""
    data = digits_data()
    fit(tmp_path / "longer", data, epochs=3)
    interrupt = InterruptAt(6)
    interrupt.trainer = trainer = small_trainer(monitor="val/accuracy", mode="max")
    with pytest.raises(Interrupted):
        fit(tmp_path, data, trainer=trainer, interrupt=interrupt)
    (tmp_path / "summaries").rename(tmp_path / "of the interrupted one")
    (tmp_path / "longer/summaries").rename(tmp_path / "summaries")
    trainer.resume()
    fit(tmp_path, data, epochs=5, trainer=trainer)
    found = written(tmp_path / "summaries")
    assert [step for step, _ in found["val", "predictions"]] == [4, 8, 12, 16, 20]
    steps = [step for step, _ in found["val", "confusion"]]
    assert steps == sorted(set(steps))


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["regression", "more outputs than classes", "four channels"])
def test_what_is_no_class_is_not_drawn(tmp_path, caplog, kind):
    caplog.set_level(logging.DEBUG, "src.callbacks.images")
    images = np.repeat(DIGITS[:32], 4, axis=-1) if kind == "four channels" else DIGITS[:32]
    targets = LABELS[:32].astype(np.float32)[:, None] if kind == "regression" else LABELS[:32]
    data = ImageData(train=(images, targets), val=(images, targets), num_classes=10, batch_size=16, seed=0)
    inputs = keras.Input(images.shape[1:])
    outputs = {"regression": 1, "four channels": 10}.get(kind, 12)
    model = keras.Model(inputs, keras.layers.Dense(outputs)(keras.layers.Flatten()(inputs)))
    losses = {"loss": keras.losses.MeanSquaredError()} if kind == "regression" else {}
    trainer = make_trainer(model, metrics={}, **losses)
    fit(tmp_path, data, trainer=trainer)
    assert trainer.state.epoch == 2
    assert not (tmp_path / "predictions.png").exists()
    assert ("val", "predictions") not in written(tmp_path / "summaries")
    assert [r.levelname for r in caplog.records if "no pictures of predictions" in r.message] == ["DEBUG"]


def test_a_full_disk_ends_training_with_the_way_out(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.summary, "write", full)
    monkeypatch.setattr(tf.summary, "scalar", full)
    with pytest.raises(OSError, match=r"no summaries could be written in .*No space left.* the same command"):
        fit(tmp_path, digits_data())


def test_without_the_best_checkpoint_it_is_a_warning(tmp_path, caplog):
    trainer = fit(tmp_path, digits_data())
    callback = trainer.callbacks["images"]
    callback._best = str(tmp_path / "nowhere")
    callback.on_train_begin(trainer.state)
    callback.on_train_end(trainer.state)
    callback.close()
    assert "no pictures of the best weights: the best checkpoint, of step" in caplog.text


@pytest.mark.parametrize("key", ["examples", "every_epochs"])
def test_wrong_values(key):
    with pytest.raises(ValueError, match=f"{key} is 0; it must be an integer at least 1"):
        Images(data=digits_data(), directory="", best="", picture="", **{key: 0})
