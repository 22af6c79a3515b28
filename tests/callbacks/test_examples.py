"""Data that are no pictures are shown as tables, and what is foreseen of them against the truth."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.callbacks.checkpoint import Checkpoint
from src.callbacks.examples import Examples
from src.callbacks.summaries import Summaries
from src.common.pictures import confusion_counts, confusion_picture, scatters_picture
from src.data.data import Data
from src.training.trainer import Trainer
from tests.callbacks.reading import pixels, written
from tests.training.test_trainer import Recorder, assert_same, weights

RANDOM = np.random.default_rng(0)
COUNT = 20
NUMBERS = RANDOM.normal(size=(COUNT, 2)).astype(np.float32)
WORDS = np.array([f"a|b {i}" for i in range(COUNT)], object)
TOKENS = tf.ragged.constant([[1] * (i % 4 + 1) for i in range(COUNT)], dtype=tf.int32)
TABLE = {"size": NUMBERS, "word": WORDS}


class Padded(Data):
    def prepare(self, inputs):
        return inputs.to_tensor()


def table(outputs):
    """A model that passes over the words."""
    given = {"size": keras.Input((2,), name="size"), "word": keras.Input((), dtype="string", name="word")}
    made = {name: keras.layers.Dense(units, name=name)(given["size"]) for name, units in outputs.items()}
    return keras.Model(given, made if len(made) > 1 else next(iter(made.values())))


def tagger():
    tokens = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 4)(tokens))
    return keras.Model(tokens, keras.layers.Dense(1)(pooled))


def small():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activity_regularizer="l2")])


LABELS = (np.arange(COUNT) % 3).astype(np.int32)
SQUARES, NATS = keras.losses.MeanSquaredError(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
YES = keras.losses.BinaryCrossentropy(from_logits=True)


def own(targets, outputs):
    return tf.reduce_mean(outputs["a"] ** 2) + tf.reduce_mean(outputs["b"] ** 2)


# What is trained: the data's parts, classes, the model, its loss; the header of the table, and the picture's tag.
KINDS = {
    "numbers": ((TABLE, NUMBERS), "", lambda: table({"y": 2}), SQUARES, "size word truth prediction", "scatter"),
    "classes": ((TABLE, LABELS), "xyz", lambda: table({"y": 3}), NATS, "size word truth prediction", "confusion"),
    "labels": ((TABLE, NUMBERS[:, :1] > 0), "x", lambda: table({"y": 1}), YES, "size word truth prediction", None),
    "ragged": ((TOKENS, NUMBERS[:, 0]), "", tagger, SQUARES, "inputs truth prediction", "scatter"),
    "no targets": ((NUMBERS,), "", small, None,
                   "inputs prediction", None),
    "two heads": ((TABLE, {"a": LABELS, "b": NUMBERS}), "", lambda: table({"a": 3, "b": 2}), own,
                  "size word truth a truth b prediction a prediction b", None),
}  # fmt: skip


def fit(folder, kind, *, shows=True, epochs=2):
    parts, class_names, model, loss, *_ = KINDS[kind]
    parts = tf.nest.map_structure(lambda part: part.astype(np.float32) if part.dtype == bool else part, parts)
    val = tf.nest.map_structure(lambda part: part[:11], parts)
    kept = {"train": parts, "val": val, "batch_size": 8, "seed": 0, "class_names": [*class_names]}
    data = (Padded if kind == "ragged" else Data)(**kept)
    keras.utils.set_random_seed(0)
    trainer = Trainer(model=model(), optimizer=keras.optimizers.SGD(0.1), loss=loss, monitor="val/loss", mode="min")
    options = {"data": data, "directory": str(folder / "summaries"), "best": str(folder / "checkpoints/best")}
    trainer.callbacks = {
        "summaries": Summaries(directory=str(folder / "summaries"), graph=False),
        **({"examples": Examples(**options, examples=4)} if shows else {}),
        "checkpoint": Checkpoint(directory=str(folder / "checkpoints")),
        "recorder": Recorder(),
    }
    trainer.fit(data.train, data.val, epochs=epochs)
    return trainer, data


def rows(text):
    header, _, *lines = (line.strip("| ").replace("\\|", "/").split(" | ") for line in text.decode().splitlines())
    return header, lines


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_each_epoch_and_a_picture_at_the_end(kind, tmp_path):
    trainer, data = fit(tmp_path, kind)
    *_, header, picture = KINDS[kind]
    found = written(tmp_path / "summaries")
    steps, texts = zip(*found["val", "examples"], strict=True)
    columns, lines = rows(texts[-1].item())
    assert steps == (3, 6) and " ".join(columns) == header and len(lines) == 4
    batches = [data.raw("val").next(data.raw("val").open(0, 0), tf.constant(i)) for i in range(2)]
    outputs = [trainer.state.predict(data.prepare(batch[0])) for batch in batches]
    if kind == "classes":
        named = [
            ["xyz"[target], "xyz"[guess]] for target, guess in zip(LABELS, np.argmax(outputs[0], -1), strict=False)
        ]
        assert [line[-2:] for line in lines] == named[:4]
        assert [line[1] for line in lines] == [f"a/b {i}" for i in range(4)]
    elif kind != "two heads":
        shown = tf.sigmoid(outputs[0]) if kind == "labels" else outputs[0]
        np.testing.assert_allclose([[float(x) for x in line[-1].split()] for line in lines], shown[:4], rtol=1e-4)
    assert {tag for _, tag in found} & {"scatter", "confusion"} == ({picture} if picture else set())
    if picture:
        ((step, value),) = found["val", picture]
        assert step == trainer.state.best.step == 6
        truth, answers = np.concatenate([batch[1] for batch in batches]), np.concatenate(outputs)
        title = "val, epoch 2"
        if picture == "scatter":
            wanted = scatters_picture(truth.reshape(answers.shape), answers, title=title)
        else:
            counts = confusion_counts(truth, answers.argmax(-1), 3)
            wanted = confusion_picture(counts, data.class_names, title=title)
        np.testing.assert_array_equal(pixels(value), wanted)


def test_training_is_the_same_without(tmp_path):
    trainers = [fit(tmp_path / str(shows), "numbers", shows=shows)[0] for shows in (True, False)]
    assert_same(*map(weights, trainers))
    assert ("val", "examples") not in written(tmp_path / "False/summaries")
