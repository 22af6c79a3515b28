"""The exported model is the best one, whole or not there, and needs nothing of this project."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.callbacks.checkpoint import Checkpoint
from src.callbacks.export import Export, export
from src.data.digit_scenes.digits import load_digits
from src.data.pipeline import InMemory, to_float
from src.models.mlp import mlp
from src.models.unet import unet
from tests.training.test_trainer import assert_same, digits, small_trainer

LOADER = """
import json, sys
import numpy as np, tensorflow as tf
assert not [name for name in sys.modules if name == "src" or name.startswith("src.")]
model = tf.saved_model.load(sys.argv[1])
serve = model.signatures["serving_default"]
images = np.load(sys.argv[2])
out = {}
for size in (1, 7, 32):
    parts = [serve(image=tf.constant(images[i:i + size])) for i in range(0, len(images), size)]
    out[size] = {k: np.concatenate([p[k].numpy() for p in parts]).tolist() for k in parts[0]}
print(json.dumps({"out": out, "dtypes": {k: v.dtype.name for k, v in parts[0].items()}}))
"""


IMAGES = load_digits()[0][:65]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best epoch is not its last: its learning rate is far too high for the second half."""
    folder = tmp_path_factory.mktemp("run")
    images, labels = digits(256)
    callbacks = {
        "export": Export(directory=str(folder / "saved_model"), best=str(folder / "checkpoints/best")),
        "checkpoint": Checkpoint(directory=str(folder / "checkpoints")),
    }
    trainer = small_trainer(callbacks=callbacks, monitor="val/accuracy", mode="max")
    data, val = InMemory(images, labels, batch_size=32), InMemory(images, labels, batch_size=64)
    trainer.fit(data, val, epochs=3)
    best = [v.numpy() for v in trainer.model.variables]
    trainer.optimizer.learning_rate = 3.0
    trainer.fit(data, val, epochs=5)
    assert trainer.state.best.epoch <= 3
    return folder, trainer, best


SHAPES = """
for path in sys.argv[4:]:
    model = tf.saved_model.load(path)
    serve, names = model.signatures["serving_default"], model.signatures["class_names"]
    found = []
    for shape in json.loads(sys.argv[3]):
        try:
            answer = serve(image=tf.zeros(shape, tf.uint8))
            found.append({name: list(value.shape) for name, value in answer.items()})
        except tf.errors.InvalidArgumentError as error:
            found.append(str(error))
    told = [name.decode() for name in names(classes=tf.range(3))["names"].numpy()]
    print(json.dumps([found, told]), flush=True)
"""


def reshaping(*, input_shape, num_classes):
    """A model whose reshaping cannot do without a row."""
    x = images = keras.Input(input_shape)
    x = keras.layers.Lambda(lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 4]))(x)
    x = keras.layers.Flatten()(keras.layers.Dense(2)(keras.layers.Reshape((16, 4))(x)))
    return keras.Model(images, keras.layers.Dense(num_classes)(x))


NAMES = ["Äpfel", "りんご", "new\nline"]
RIGHT = [[0, 8, 8, 1], [1, 8, 8, 1], [5, 8, 8, 1]]
WRONG = [[9, 8], [8, 8, 1], [64], [], [2, 16, 16, 1], [2, 9, 8, 1], [2, 8, 8, 3], [4, 4, 4, 4], [2, 64], [0, 8, 8]]


@pytest.fixture(scope="module")
def answers(run, tmp_path_factory):
    """What one fresh process prints of the run's model, and of others of several shapes: their paths and the lines."""
    folder, paths = tmp_path_factory.mktemp("answers"), []
    for make in (mlp, unet, reshaping):
        options = {"depth": 1, "filters": 2} if make is unet else {}
        model = make(input_shape=(8, 8, 1), num_classes=3, **options)
        paths.append(export(model, folder / make.__name__ / "1", class_names=NAMES))
    np.save(folder / "images.npy", IMAGES)
    words = [run[0] / "saved_model" / "1", folder / "images.npy", json.dumps(RIGHT + WRONG), *paths]
    command = [sys.executable, "-c", LOADER + SHAPES, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return paths, [json.loads(line) for line in done.stdout.splitlines()]


def test_fresh_process_gives_the_best_weights_outputs(run, answers):
    (folder, trainer, _), (_, [result, *_]) = run, answers
    assert result["dtypes"] == {"logits": "float32", "class": "int32"}

    from src.training.checkpoints import Checkpoints

    last = [v.numpy() for v in trainer.model.variables]
    Checkpoints(folder / "checkpoints" / "best").restore_weights(trainer.state)
    expected = trainer.model(to_float(tf.constant(IMAGES)), training=False).numpy()
    for variable, value in zip(trainer.model.variables, last, strict=True):
        variable.assign(value)
    for size in ("1", "7", "32"):
        np.testing.assert_allclose(np.float32(result["out"][size]["logits"]), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(result["out"][size]["class"], expected.argmax(-1))


def test_training_keeps_its_own_weights(run):
    """Exporting the best ones does not change those that training ended with."""
    folder, trainer, best = run
    from src.training.checkpoints import Checkpoints

    last = [v.numpy() for v in trainer.model.variables]
    assert any(not np.array_equal(a, b) for a, b in zip(last, best, strict=True))
    Checkpoints(folder / "checkpoints").restore(trainer.state)
    assert_same([v.numpy() for v in trainer.model.variables], last)


def test_again_replaces_it_and_leaves_nothing_else(run):
    folder, trainer, _ = run
    base = folder / "saved_model"
    (base / ".tmp-1-1").mkdir()
    export(trainer.model, base / "1")
    assert [path.name for path in base.iterdir()] == ["1"]


def test_a_failed_export_leaves_the_old_one(run, monkeypatch):
    folder, trainer, _ = run
    base = folder / "saved_model"
    before = (base / "1" / "saved_model.pb").stat().st_mtime_ns

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.common.files.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export(trainer.model, base / "1")
    assert [path.name for path in base.iterdir()] == ["1"]
    assert (base / "1" / "saved_model.pb").stat().st_mtime_ns == before


def test_without_the_best_checkpoint_nothing_else_is_exported_as_the_best(run, tmp_path):
    _, trainer, _ = run
    callback = Export(directory=str(tmp_path / "saved_model"), best=str(tmp_path / "best"))
    with pytest.raises(RuntimeError, match=r"the best checkpoint, of step \d+, is no longer in .*rerun=true"):
        callback.on_train_end(trainer.state)
    assert not (tmp_path / "saved_model").exists()


def test_a_fresh_process_is_told_the_shape_and_the_class_names(answers):
    """Kernels met with another shape abort the process, or answer."""
    paths, [_, *lines] = answers
    for path, (found, told) in zip(paths, lines, strict=True):
        size = [8, 8] if path.parent.name == "unet" else []
        assert found[: len(RIGHT)] == [{"logits": [n, *size, 3], "class": [n, *size]} for n, *_ in RIGHT]
        for shape, message in zip(WRONG, found[len(RIGHT) :], strict=True):
            assert "expected shape [?,8,8,1]" in message and str(shape).replace(" ", "") in message
        assert told == NAMES
        assert (path / "assets/class_names.txt").read_text() == "".join(f"{name}\n" for name in NAMES)


def test_a_model_of_any_size_is_served_at_any(tmp_path):
    images = keras.Input((None, None, 1))
    export(keras.Model(images, keras.layers.Conv2D(2, 3, padding="same")(images)), tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    serve = loaded.signatures["serving_default"]
    for shape in ([1, 9, 7, 1], [0, 3, 3, 1]):
        assert serve(image=tf.zeros(shape, tf.uint8))["class"].shape == shape[:3]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected shape \[\?,\?,\?,1\]"):
        serve(image=tf.zeros([1, 9, 7, 3], tf.uint8))
