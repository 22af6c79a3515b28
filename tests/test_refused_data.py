"""What is not understood is refused before the first step, in one message that says what is; what is, serves right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from src.build import build_data
from src.callbacks.export import export, export_any
from src.callbacks.images import undrawable
from src.config.binding import target_problems
from src.config.compose import compose
from src.data.data import Data, DataError
from src.data.digit_scenes.digits import load_digits
from src.data.images.image_data import UNDERSTOOD, ImageData
from src.data.images.transforms import Augment, Brightness, Flip, Noise, Shift
from src.inspection.evaluation import measure
from src.inspection.predict_images import load_model
from src.losses import CrossEntropy, Tversky, WeightedSum
from src.metrics import MeanIoU
from src.runs.preflight import probabilities_problem, shape_problem
from src.training.learner import Supervised
from src.training.trainer import Trainer
from tests.support import forks
from tests.support.helpers import only_run, train

RANDOM = np.random.default_rng(0)
N = 40
PIXELS, LABELS = RANDOM.integers(0, 256, (N, 8, 6, 3), np.uint8), RANDOM.integers(0, 3, N, np.int32)
UNIT = PIXELS.astype(np.float32) / 255
TABLE = RANDOM.normal(size=(N, 5)).astype(np.float32)
MASKS = RANDOM.integers(0, 3, (N, 8, 6), np.uint8)


def with_one(values: np.ndarray, value: float, *, example: int = 0) -> np.ndarray:
    changed = values.copy()
    changed[example].flat[0] = value
    return changed


SOURCES = {
    "arrays": lambda *pair: pair,
    "stream": lambda *pair: tf.data.Dataset.from_tensor_slices(pair),
    "one by one": lambda *pair: list(zip(*pair, strict=True)),
}
of_all_sources = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def data_of(inputs, targets, source=SOURCES["arrays"], **options):
    split = source(inputs, targets)
    return ImageData(**{"train": split, "val": split, "num_classes": 3, "batch_size": 8, "seed": 0, **options})


@of_all_sources
@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        *((PIXELS, targets) for targets in (LABELS, LABELS.astype(np.uint8), LABELS[:, None], MASKS, MASKS[..., None])),
        *((inputs, LABELS) for inputs in (UNIT, UNIT.astype(np.float16), UNIT.astype(np.float64), TABLE, UNIT[0:, 0])),
        (UNIT, MASKS),
    ],
)
def test_what_is_understood(source, inputs, targets):
    data = data_of(inputs, targets, source)
    data.check()
    stored = data.stored_spec("train")
    assert [(spec.dtype, tuple(spec.shape)) for spec in stored] == [
        (part.dtype, (None, *part.shape[1:])) for part in (inputs, targets)
    ]


@of_all_sources
@pytest.mark.parametrize(
    ("inputs", "targets", "named"),
    [
        (RANDOM.integers(0, 99, (N, 20), np.uint8), LABELS, r"uint8 \[n, 20\].*pixels of images"),
        (PIXELS[..., 0], LABELS, r"uint8 \[n, 8, 6\]"),
        (RANDOM.integers(0, 99, (N, 20)), LABELS, r"int64 \[n, 20\].*neither pixels nor features"),
        (PIXELS.astype(np.uint16) * 257, LABELS, r"uint16 \[n, 8, 6, 3\]"),
        (PIXELS > 9, LABELS, r"bool \[n, 8, 6, 3\]"),
        (TABLE[:, 0], LABELS, r"float32 \[n\].*an axis"),
        (PIXELS, LABELS.astype(np.float32), r"float32 \[n\].*no class numbers"),
        (PIXELS, LABELS > 1, r"bool \[n\]"),
        (PIXELS, UNIT, r"targets float32 \[n, 8, 6, 3\]"),
        (PIXELS, np.repeat(PIXELS, 2, 1), r"targets uint8 \[n, 16, 6, 3\].*neither labels nor masks"),
        (PIXELS, MASKS[:, ::2], r"targets uint8 \[n, 4, 6\]"),
        (PIXELS, LABELS[:, None] == np.arange(3), r"bool \[n, 3\]"),
        (PIXELS, np.eye(3, dtype=np.int32)[LABELS], r"targets int32 \[n, 3\]"),
        (TABLE, MASKS, r"inputs float32 \[n, 5\] and targets uint8 \[n, 8, 6\]"),
        (UNIT * 255, LABELS, r"inputs from 0 to 255"),
        (UNIT - 0.5, LABELS, r"inputs from -0.5 to 0.5"),
        (with_one(UNIT, np.nan), LABELS, r"inputs from nan"),
        (with_one(TABLE, np.inf), LABELS, r"inputs from .* to inf"),
    ],
)
def test_what_is_not(source, inputs, targets, named):
    with pytest.raises(DataError, match=f"(?s)the train split has .*{named}") as refused:
        data_of(inputs, targets, source).check()
    assert UNDERSTOOD in str(refused.value)


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ({"val": (UNIT, LABELS)}, r"val split has inputs float32.*train split has uint8"),
        ({"test": (PIXELS[:, :4], LABELS)}, r"test split has inputs uint8 \[n, 4, 6, 3\]"),
        ({"val": (PIXELS, MASKS)}, r"val split has .*targets uint8 \[n, 8, 6\]: the train split has .* int32 \[n\]"),
        ({"val": (PIXELS, LABELS * 1.0)}, r"val split has .* float64 \[n\]"),
    ],
)
def test_each_split_must_be_of_the_kind(split, named):
    with pytest.raises(DataError, match=named):
        data_of(PIXELS, LABELS, **split).check()


@pytest.mark.parametrize("inputs", [{"image": PIXELS}, (PIXELS, PIXELS)], ids=["by name", "two"])
def test_examples_are_pairs_of_single_tensors(inputs):
    with pytest.raises(DataError, match="an example of the train split is"):
        data_of(inputs, LABELS, SOURCES["stream"])
    with pytest.raises(DataError, match="an example of the train split is"):
        data_of(None, None, lambda *_: tf.data.Dataset.from_tensor_slices((PIXELS, LABELS, LABELS)))


@pytest.mark.parametrize("source", ["stream", "one by one"])
@pytest.mark.parametrize("wrong", [np.nan, 2.0])
def test_what_is_read_later_is_looked_at_then(source, wrong):
    data = data_of(with_one(UNIT, wrong, example=30), LABELS, SOURCES[source], shuffle=False)
    data.check()
    for batches in (data.train, data.val, data.raw("train")):
        cursor = batches.open(0, 0)
        batches.next(cursor, tf.constant(0))
        with pytest.raises(tf.errors.InvalidArgumentError, match="has other inputs"):
            _ = [batches.next(cursor, tf.constant(step)) for step in range(1, 5)]


@pytest.mark.parametrize(
    "targets",
    [RANDOM.random((N, 10), np.float32), RANDOM.integers(0, 8, (N, 4)), UNIT, MASKS[:, ::2], LABELS.astype(np.float32)],
    ids=["keypoints", "boxes", "images", "masks of another size", "angle"],
)
def test_what_moves_pixels_is_refused_where_targets_would_stay(targets):
    def mine(images, masks, random):
        return images, masks

    pixels, spec = tf.TensorSpec([None, 8, 6, 3]), tf.TensorSpec([None, *targets.shape[1:]], targets.dtype)
    for name, transform in {"mirror": Flip(), "move": Shift(), "mine": mine}.items():
        augment = Augment({"noise": Noise(), name: transform}, seed=0)
        with pytest.raises(ValueError, match=rf"transforms\.{name} moves pixels, and targets {targets.dtype}.*=null"):
            augment.check(pixels, spec)
        for right in (LABELS, LABELS[:, None], MASKS, MASKS[..., None]):
            augment.check(pixels, tf.TensorSpec([None, *right.shape[1:]], right.dtype))
        with pytest.raises(ValueError, match=r"transforms\.noise is for images"):
            augment.check(tf.TensorSpec([None, 5]), spec)
    Augment({"noise": Noise(), "brightness": Brightness()}, seed=0).check(pixels, spec)
    with pytest.raises(ValueError, match=r"transforms\.mirror moves pixels"):
        data_of(PIXELS, targets, transforms={"mirror": Flip()})


def model_of(*layers):
    return keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Flatten(), *layers])


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_a_logit_for_each_class_is_wanted(outputs):
    options = {"model_option": "mine", "data_option": "mine"}
    message = shape_problem(model_of(keras.layers.Dense(outputs)), data_of(PIXELS, LABELS), **options)
    assert f"gives {outputs} scores" in message and "which wants 3:" in message and "${run.num_classes}" in message
    per_pixel = keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Dense(outputs)])
    assert "which wants 8x6x3:" in shape_problem(per_pixel, data_of(PIXELS, MASKS[..., None]), **options)
    assert shape_problem(model_of(keras.layers.Dense(3)), data_of(PIXELS, LABELS[:, None]), **options) is None


def test_one_logit_is_enough_for_two_classes():
    two = {"num_classes": 2, "class_names": ["no", "yes"]}
    options = {"model_option": "mine", "data_option": "mine"}
    per_pixel = keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Dense(1)])
    assert shape_problem(model_of(keras.layers.Dense(1)), data_of(PIXELS, LABELS % 2, **two), **options) is None
    assert shape_problem(per_pixel, data_of(PIXELS, MASKS % 2, **two), **options) is None
    assert "which wants 2." in shape_problem(per_pixel, data_of(PIXELS, LABELS % 2, **two), **options)


def test_masks_of_one_logit_are_exported_measured_drawn_and_predicted(tmp_path):
    truth = MASKS % 2
    data = data_of(PIXELS, truth, num_classes=2, class_names=["no", "yes"])
    model = keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Dense(1)])
    model.set_weights([np.float32([[1], [-1], [0.1]]), np.float32([0])])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(), loss=loss)
    trainer.check(data.train, data.val)
    assert undrawable(trainer.state, data) is None
    path = export_any(trainer.state, data, tmp_path / "1")
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    logits = model(UNIT).numpy()
    found = serve(inputs=tf.constant(PIXELS))
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_array_equal(found["class"], said := (logits[..., 0] > 0).astype(np.int32))
    evaluation = measure(trainer, data, split="val", serve=serve, has_best_weights=True)
    counts = [[np.sum((truth == a) & (said == b)) for b in (0, 1)] for a in (0, 1)]
    assert evaluation.results.confusion.tolist() == counts and min(map(min, counts)) > 0
    served = load_model(path)
    scores, classes = served.serve(PIXELS[:3])
    assert served.classes == 2 and served.scores == 8 * 6 * 2 and not scores[..., 0].any()
    np.testing.assert_allclose(scores[..., 1:], logits[:3], rtol=1e-5)
    np.testing.assert_array_equal(classes, said[:3])


def test_what_gives_no_classes_of_images_is_told_to_take_rows(tmp_path):
    data = Data(train=(PIXELS, TABLE), batch_size=8, seed=0)
    model = model_of(keras.layers.Dense(5))
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    trainer.state.input_spec = data.train.element_spec[0]
    with pytest.raises(ValueError, match=r"gives {'outputs': float32 \(None, 5\)}, no classes .* rows of an .npz file"):
        load_model(export_any(trainer.state, data, tmp_path / "1"))


@pytest.mark.parametrize(
    "options",
    [
        {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        {"loss": CrossEntropy()},
        {"loss": WeightedSum(losses={"dice": Tversky()})},
        {"metrics": {"accuracy": keras.metrics.SparseCategoricalAccuracy()}},
        {"metrics": {"mean_iou": MeanIoU(num_classes=3)}},
    ],
)
def test_one_logit_is_no_score_of_each_class(options):
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(), **{"loss": loss, **options})
    with pytest.raises(ValueError, match=r"outputs have (one: of one logit are|1 scores)"):
        trainer.fit(data_of(TABLE, LABELS % 2, num_classes=2).train, epochs=1)


def test_a_loss_of_keras_does_not_count_what_is_ignored():
    data = data_of(PIXELS, np.where(MASKS == 2, 255, MASKS), num_classes=2, ignore_label=255)
    model = keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Dense(1)])
    losses = (
        keras.losses.BinaryCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=254),
    )
    for loss in losses:
        learner = Supervised(model=model, optimizer=keras.optimizers.SGD(), loss=loss, ignore_label=255)
        with pytest.raises(ValueError, match=r"the data ignores the label 255, and .* takes it for a target"):
            learner.check(data.train.element_spec)


class Softmax(keras.layers.Layer):
    def call(self, x):
        return tf.nn.softmax(x)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([keras.layers.Dense(3, activation="softmax")], "softmax"),
        ([keras.layers.Dense(3), keras.layers.Softmax(), keras.layers.Activation("linear")], "softmax"),
        ([keras.layers.Dense(6), keras.layers.Reshape((2, 3)), Softmax(), keras.layers.Reshape((6,))], "softmax"),
        ([keras.Sequential([keras.layers.Dense(3, activation="sigmoid")])], "sigmoid"),
        ([keras.layers.Dense(3, activation="softmax", dtype="float64")], "softmax"),
        ([keras.layers.Dense(3)], None),
        ([keras.layers.Dense(3, activation="softmax"), keras.layers.Dense(3)], None),
        ([keras.layers.Dense(3, activation="log_softmax")], None),
    ],
)
def test_probabilities_are_no_logits(layers, named):
    of_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    unnamed, classes = Data(train=(TABLE, LABELS), batch_size=8, seed=0), {"class_names": ["a", "b", "c"]}
    for loss, data, is_seen in (
        (keras.losses.MeanSquaredError(), Data(train=(TABLE, LABELS), batch_size=8, seed=0, **classes), True),
        (keras.losses.MeanSquaredError(), unnamed, False),
        (of_logits, unnamed, True),
        (WeightedSum(losses={"a": of_logits}), unnamed, True),
        (CrossEntropy(), unnamed, True),
    ):
        trainer = Trainer(model=model_of(*layers), optimizer=keras.optimizers.SGD(), loss=loss)
        found = probabilities_problem(trainer, data)
        assert (found is None) == (named is None or not is_seen) and (named if found else "") in (found or "")


@pytest.mark.parametrize(
    ("node", "refused"),
    [
        ({"_target_": "keras.losses.SparseCategoricalCrossentropy"}, True),
        ({"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": False}, True),
        ({"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": True}, False),
        ({"_target_": "src.losses.CrossEntropy"}, False),
        ({"_target_": "keras.losses.Dice"}, False),
    ],
)
def test_a_loss_or_metric_that_takes_probabilities_is_refused(node, refused):
    combo = {"_target_": "src.losses.WeightedSum", "losses": {"a": node}}
    found = [*target_problems({"loss": node}, {}), *target_problems({"loss": combo}, {})]
    assert found == ([f"{k}.from_logits: models give logits, so it must be true: {k}.from_logits=true"
                      for k in ("loss", "loss.losses.a")] if refused else [])  # fmt: skip
    metric = {"_target_": "keras.metrics.SparseCategoricalCrossentropy"}
    assert len(target_problems({"metric": {"nats": metric}}, {})) == 1


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, "threshold") for name in ("BinaryAccuracy", "BinaryIoU")),
        *((name, "thresholds") for name in ("Precision", "Recall", "FalsePositives")),
        *((name, None) for name in ("F1Score", "SparseCategoricalAccuracy", "MeanAbsoluteError")),
    ],
)
def test_a_metric_of_keras_is_told_at_which_value_yes_begins(name, argument):
    node = {"_target_": f"keras.metrics.{name}"} | ({"target_class_ids": [1]} if name == "BinaryIoU" else {})
    of_one = {"_target_": "src.metrics.Of", "output": "a", "metric": node}
    found = target_problems({"metric": {"one": node, "two": of_one}}, {})
    assert [text.partition(": ")[0] for text in found] == (
        [f"metric.one.{argument}", f"metric.two.metric.{argument}"] if argument else []
    )
    assert not target_problems({"metric": {"one": node | ({argument: 0.0} if argument else {})}}, {})


def test_a_run_looks_at_its_data_first(monkeypatch):
    images, labels = load_digits()
    monkeypatch.setattr("src.data.sources.load_digits", lambda: (images.astype(np.uint16), labels))
    with pytest.raises(DataError, match=r"uint16 \[n, 8, 8, 1\].*neither pixels nor features"):
        build_data(compose(["data=digits", "model=mlp"]))


SURE = """import keras
from src.models.mlp import mlp

def model(**options):
    logits = mlp(**options)
    return keras.Model(logits.inputs, keras.layers.Softmax()(logits.outputs[0]))
"""


def test_a_run_of_probabilities_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(SURE)
    done = train("data=digits", "model=mlp", "model._target_=mine.model", "epochs=1", cwd=tmp_path)
    assert done.returncode == 2 and "the model gives probabilities" in done.stderr, done.stderr
    assert not list(tmp_path.glob("outputs/**/ckpt-*"))


FEATURES = '''"""Two classes of float inputs."""

import numpy as np

from src.data.images.image_data import ImageData


def features(*, batch_size, seed):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60, dtype=np.int32)
    inputs = ((random.random((60, 4, 4, 1)) + labels[:, None, None, None]) / 2).astype(np.float32)
    names = ["Äpfel", "りんご"]
    splits = {"train": (inputs[:40], labels[:40]), "val": (inputs[40:], labels[40:])}
    return ImageData(**splits, num_classes=2, class_names=names, batch_size=batch_size, seed=seed)
'''
OPTION = """# @package _global_
defaults:
  - override /loss: sparse_categorical_crossentropy
  - override /metric: accuracy
name: features
monitor: val/accuracy
mode: max
data: {_target_: mine.features, batch_size: "${batch_size}", seed: "${seed}"}
"""


def test_floats_are_served_evaluated_and_predicted_as_floats(tmp_path):
    (tmp_path / "mine.py").write_text(FEATURES)
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/features.yaml").write_text(OPTION)

    def command(module, *words):
        done = forks.run(module, list(words), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    lean = ("callback.images=null", "callback.summaries=null", "callback.hparams=null", "optimizer.learning_rate=0.1")
    command("src.train", "--config-dir=conf", "data=features", "model=mlp", "model.hidden_units=[8]", "epochs=2", *lean)
    run = only_run(tmp_path / "outputs" / "features")
    model = tf.saved_model.load(str(run / "saved_model" / "1"))
    answer = model.signatures["serving_default"](image=tf.ones([2, 4, 4, 1]))
    names = model.signatures["class_names"](classes=answer["class"])["names"].numpy()
    assert [name.decode() for name in names] == ["りんご"] * 2
    assert command("src.evaluate", str(run))[:4] == ["val", "best", "weights", "SavedModel"]
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "white.png")
    assert command("src.predict", str(run), "white.png")[1] == "りんご"


def test_features_are_served_as_they_are_and_are_no_images(tmp_path):
    inputs = keras.Input([5])
    path = export(keras.Model(inputs, keras.layers.Dense(3)(inputs)), tmp_path / "1", dtype=tf.float32)
    loaded = tf.saved_model.load(str(path))
    logits = loaded.signatures["serving_default"](inputs=tf.constant(TABLE))["logits"]
    np.testing.assert_allclose(logits, TABLE @ loaded.weights[0] + loaded.weights[1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"takes inputs float32 \(None, 5\), and no images"):
        load_model(path)
