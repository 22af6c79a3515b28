"""`python -m src.evaluate` writes what the SavedModel gets wrong: against NumPy, from the split and the SavedModel."""

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from src import evaluate as command
from src.callbacks.export import export, export_any
from src.config.compose import ConfigError, compose
from src.data.data import Data
from src.data.images.image_data import ImageData
from src.data.images.transforms import Noise
from src.data.sources import digit_scenes
from src.inspection.evaluation import WORST, examine, measure, write
from src.inspection.results import auc, best_threshold
from src.losses import CrossEntropy
from src.metrics import MeanIoU
from src.training.learner import Supervised
from src.training.trainer import Trainer
from tests.support import forks
from tests.support.folders import write_pairs
from tests.support.helpers import only_run, train

SMALL = ("model.filters=4", "model.depth=1", "epochs=1", "batch_size=64", "data.image_size=24")
FILES = {"metrics.json", "confusion.png", "worst.png", "worst"}


def evaluate(*arguments, cwd):
    """`python -m src.evaluate`."""
    return forks.run("src.evaluate", [*map(str, arguments)], cwd=cwd)


def printed(stdout):
    """The table on standard output: the split, the titles of its columns, and its numbers by name."""
    head, *lines = stdout.partition("\n\n")[0].splitlines()
    split, *titles = head.replace("best weights", "best_weights").split()
    return split, titles, {name: list(map(float, numbers)) for name, *numbers in map(str.split, lines)}


def whole(folder):
    """All bytes in a folder, by path."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small segmentation run, to be left as it is."""
    folder = tmp_path_factory.mktemp("evaluate")
    result = train(*SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return only_run(folder / "outputs" / "digit_scenes")


@pytest.fixture(scope="module")
def truth(run):
    """Test images, masks, and the SavedModel's logits."""
    batches = digit_scenes(batch_size=400, seed=0, image_size=24).raw("test")
    images, targets = batches.next(batches.open(0, 0), 0)
    served = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"](image=images)
    return images.numpy(), targets.numpy().astype(int), served["logits"].numpy()


@pytest.mark.exhaustive
def test_confusion_classes_and_worst_examples_are_those_of_numpy(run, truth):
    result = evaluate(run, cwd=run)
    assert result.returncode == 0, result.stderr
    split, titles, table = printed(result.stdout)
    assert (split, titles, set(table)) == ("test", ["best_weights", "SavedModel"], {"loss", "accuracy", "mean_iou"})
    folder = run / "evaluation" / "test"
    assert {path.name for path in folder.iterdir()} == FILES
    values = json.loads((folder / "metrics.json").read_text())

    images, targets, logits = truth
    predicted = logits.argmax(-1)
    confusion = np.array([[np.sum((targets == t) & (predicted == p)) for p in range(11)] for t in range(11)])
    np.testing.assert_array_equal(values["confusion"], confusion)
    metrics = values["metrics"]["saved_model"]
    ious = []
    for number, row in enumerate(values["per_class"]):
        there, found = targets == number, predicted == number
        wanted = {"recall": there, "precision": found, "iou": there | found}
        for key, of in wanted.items():
            assert row[key] == (pytest.approx((there & found).sum() / of.sum()) if of.any() else None)
        ious.append(row["iou"])
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    assert metrics["mean_iou"] == pytest.approx(np.mean([iou for iou in ious if iou is not None]), abs=1e-6)
    for name, numbers in table.items():
        assert numbers == pytest.approx([metrics[name]] * 2, abs=1e-6)
        assert values["metrics"]["best_weights"][name] == pytest.approx(metrics[name], abs=1e-6)
    assert [row["class"] for row in values["per_class"]] == values["class_names"] == ["background", *"0123456789"]

    shifted = logits - logits.max(-1, keepdims=True)
    surprise = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    losses = surprise.mean((1, 2))
    worst = [example["index"] for example in values["worst"]]
    assert worst == np.argsort(-losses)[:WORST].tolist()
    assert [example["loss"] for example in values["worst"]] == pytest.approx(losses[worst], rel=1e-4)
    assert metrics["loss"] == pytest.approx(losses.mean(), rel=1e-4)

    names = sorted(path.name for path in (folder / "worst").iterdir())
    assert names == [f"{place:02}-index-{index:05}.png" for place, index in enumerate(worst, 1)]
    first = np.asarray(Image.open(folder / "worst" / names[0]))
    sizes = [np.asarray(Image.open(folder / name)).shape for name in ("worst.png", "confusion.png")]
    assert sizes[0][1] > 9 * 96 and all(shape[2] == 3 for shape in sizes)
    enlarged = np.kron(images[worst[0]], np.ones([4, 4, 1], np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(first, enlarged.shape)
    assert (windows[:, :, 0, ::7, ::7] == enlarged[::7, ::7]).all((2, 3, 4)).sum() == 1, "the image is in its picture"

    head, *lines = result.stdout.partition("\n\n")[2].splitlines()
    assert head.split() == ["class", "iou", "recall", "precision"]
    for row, line in zip(values["per_class"], lines, strict=True):
        shown = ["-" if row[key] is None else f"{row[key]:.6f}" for key in ("iou", "recall", "precision")]
        assert line.split() == [row["class"], *shown]
    said = result.stderr.splitlines()
    assert said[-4:] == [f"{folder}/{name}{'/' if name == 'worst' else ''}" for name in sorted(FILES)]


def test_without_checkpoints_the_saved_model_is_measured_and_replaces_what_was_there(tmp_path):
    data = ("data=image_folder", f"data.path={write_pairs(tmp_path / 'pairs', count=20)}", "~callback.images")
    assert train(*data, "model.filters=4", "model.depth=1", "epochs=1", "batch_size=8", cwd=tmp_path).returncode == 0
    copy = only_run(tmp_path / "outputs" / "image_folder")
    shutil.rmtree(copy / "checkpoints")
    (copy / "evaluation" / "val" / "worst").mkdir(parents=True)
    (copy / "evaluation" / "val" / "worst" / "old.png").touch()
    (copy / "evaluation" / ".tmp-1-val").mkdir()
    result = evaluate(copy, "split=val", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "have been removed; the SavedModel alone is measured" in result.stderr
    split, titles, table = printed(result.stdout)
    history = json.loads((copy / "history.jsonl").read_text().splitlines()[-1])
    assert (split, titles) == ("val", ["SavedModel"])
    assert all(number == pytest.approx(history[f"val/{name}"], abs=1e-6) for name, [number] in table.items())
    assert {path.name for path in (copy / "evaluation").iterdir()} <= {"val", "test"}
    assert {path.name for path in (copy / "evaluation" / "val").iterdir()} == FILES
    assert not (copy / "evaluation" / "val" / "worst" / "old.png").exists()
    assert json.loads((copy / "evaluation" / "val" / "metrics.json").read_text())["metrics"].keys() == {"saved_model"}


@pytest.mark.exhaustive
def test_a_run_that_cannot_be_written_has_its_metrics_printed(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("evaluation"))
    (copy / "evaluation").touch()
    result = evaluate(copy, cwd=tmp_path)
    assert result.returncode == 1 and printed(result.stdout)[0] == "test" and "background" in result.stdout
    assert result.stderr.splitlines()[-1].startswith(f"error: {copy}/evaluation/test cannot be written (")
    assert "Traceback" not in result.stderr


@pytest.fixture
def arrays():
    """50 images uint8 [6, 6, 1] with masks of 3 classes and 255, which is none."""
    random = np.random.default_rng(0)
    masks = random.choice(np.array([0, 1, 2, 255], np.uint8), [50, 6, 6], p=[0.5, 0.3, 0.1, 0.1])
    return random.integers(0, 256, [50, 6, 6, 1], dtype=np.uint8), masks


def built(arrays, folder, *, outputs=3, loss=None, metrics=None, streamed=False, **options):
    """A trainer with a random model of one layer, its data, and its exported function."""
    train_split = tf.data.Dataset.from_tensor_slices(arrays) if streamed else arrays
    noise = {"noise": Noise(stddev=0.3)}
    data = ImageData(train=train_split, num_classes=3, batch_size=8, seed=0, transforms=noise, ignore_label=255)
    model = keras.Sequential([keras.Input([6, 6, 1]), keras.layers.Conv2D(outputs, 1, **options)])
    keras.utils.set_random_seed(0)
    model.layers[0].set_weights([np.random.default_rng(1).normal(size=shape.shape) * 3 for shape in model.weights])
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.SGD(),
        loss=loss or CrossEntropy(ignore_label=255),
        metrics=metrics or {},
    )
    loaded = tf.saved_model.load(str(export(model, folder / "1")))
    return trainer, data, loaded


def measured(arrays, folder, **options):
    """The evaluation of such a model on the train split."""
    trainer, data, loaded = built(arrays, folder, **options)
    serve = loaded.signatures["serving_default"]
    return measure(trainer, data, split="train", serve=serve, has_best_weights=True)


def test_an_augmented_split_is_measured_as_it_is_stored_from_arrays_and_streams(arrays, tmp_path):
    results = [measured(arrays, tmp_path / str(streamed), streamed=streamed) for streamed in (False, True)]
    for evaluation in results:
        assert (
            evaluation.metrics["best_weights"] == evaluation.metrics["saved_model"] == results[0].metrics["saved_model"]
        )
    first, second = results
    np.testing.assert_array_equal(first.results.confusion, second.results.confusion)
    assert [(e.index, e.loss) for e in first.worst] == [(e.index, e.loss) for e in second.worst]
    for example in first.worst:
        np.testing.assert_array_equal(example.inputs, arrays[0][example.index])


def test_losses_of_layers_count_in_both_models_with_and_without_checkpoints(arrays, tmp_path):
    """As Keras's own evaluate, with what each call adds and with what the weights are penalised by."""
    options = {"activity_regularizer": "l2", "kernel_regularizer": "l2", "loss": lambda y, x: tf.reduce_mean(x)}
    trainer, data, loaded = built(arrays, tmp_path, **options)
    serve = loaded.signatures["serving_default"]
    evaluation = measure(trainer, data, split="train", serve=serve, has_best_weights=True)
    trainer.model.compile(loss=options["loss"])
    images, masks = arrays[0].astype(np.float32) * np.float32(1 / 255), arrays[1]
    expected = trainer.model.evaluate(images, masks, batch_size=8, verbose=0)
    assert [metrics["loss"] for metrics in evaluation.metrics.values()] == [pytest.approx(expected, rel=1e-5)] * 2


def test_a_penalty_of_weights_is_of_the_exported_ones_where_the_checkpoints_are_gone(arrays, tmp_path, monkeypatch):
    trainer, data, loaded = built(arrays, tmp_path / "saved_model", kernel_regularizer="l2")
    serve = loaded.signatures["serving_default"]
    expected = measure(trainer, data, split="train", serve=serve, has_best_weights=True).metrics["best_weights"]
    trainer.model.set_weights([0 * weights for weights in trainer.model.get_weights()])
    monkeypatch.setattr("src.build.build_data", lambda cfg: data)
    monkeypatch.setattr("src.build.build_trainer", lambda *args, **options: trainer)
    found = command.evaluate(compose([]), tmp_path, "train").metrics
    assert found == {"saved_model": pytest.approx(expected, rel=1e-6)}


def test_targets_that_are_no_class_are_not_counted_but_told(arrays, tmp_path):
    evaluation = measured(arrays, tmp_path)
    ignored = (arrays[1] == 255).sum()
    assert evaluation.results.uncounted == ignored > 0
    assert evaluation.results.confusion.sum() == arrays[1].size - ignored
    write(evaluation, tmp_path / "evaluation" / "train")
    assert json.loads((tmp_path / "evaluation" / "train" / "metrics.json").read_text())["uncounted"] == ignored


def test_accuracy_and_mean_iou_are_those_of_the_confusion_matrix(arrays, tmp_path):
    images, masks = arrays
    metrics = {"accuracy": keras.metrics.SparseCategoricalAccuracy(), "mean_iou": MeanIoU(num_classes=3)}
    evaluation = measured((images, np.minimum(masks, 2)), tmp_path, metrics=metrics)
    confusion = evaluation.results.confusion
    found = evaluation.metrics["saved_model"]
    ious = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert found["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    assert found["mean_iou"] == pytest.approx(ious.mean(), abs=1e-6)
    assert [row["iou"] for row in evaluation.results.rows()] == pytest.approx(ious)


def test_outputs_that_are_no_classes_leave_the_metrics(arrays, tmp_path):
    evaluation = measured(
        arrays, tmp_path, outputs=1, loss=lambda y, x: tf.reduce_mean((tf.cast(y, "float32") - x) ** 2)
    )
    assert evaluation.results is None and evaluation.worst == []
    write(evaluation, tmp_path / "evaluation" / "train", run="x")
    assert [path.name for path in (tmp_path / "evaluation" / "train").iterdir()] == ["metrics.json"]
    values = json.loads((tmp_path / "evaluation" / "train" / "metrics.json").read_text())
    assert values["run"] == "x" and values["metrics"]["saved_model"]["loss"] > 0


def test_a_loss_that_is_no_number_is_the_worst_and_equal_ones_keep_their_order():
    images, labels = np.zeros([20, 2, 2, 1], np.uint8), np.arange(20) % 3
    data = ImageData(train=(images, labels), num_classes=3, batch_size=6, seed=0)
    of_label, seen = tf.constant([1.0, np.nan, 2.0]), []
    found = examine(
        lambda images: tf.zeros([tf.shape(images)[0], 3]),
        data.raw("train"),
        loss=lambda y, x: tf.gather(of_label, y)[0],
        answer=lambda scores: tf.argmax(scores, -1),
        see=lambda targets, predicted: seen.append((targets, predicted)),
        worst=9,
    )
    assert [example.index for example in found] == [1, 4, 7, 10, 13, 16, 19, 2, 5]
    np.testing.assert_array_equal(np.concatenate(seen, 1), [labels, 0 * labels])


def test_a_folder_that_cannot_be_completed_leaves_the_one_there(arrays, tmp_path, monkeypatch):
    evaluation = measured(arrays, tmp_path)
    folder = tmp_path / "evaluation" / "train"
    write(evaluation, folder)
    before = whole(folder.parent)
    nameless = replace(evaluation, results=replace(evaluation.results, class_names=()))
    with pytest.raises(IndexError):
        write(nameless, folder)
    assert whole(folder.parent) == before


def test_the_last_split_is_taken_and_one_that_is_not_there_is_a_wrong_command(arrays, tmp_path, monkeypatch):
    _, data, _ = built(arrays, tmp_path)
    run = tmp_path / "run"
    (run / "saved_model" / "1").mkdir(parents=True)
    taken = []
    monkeypatch.setattr("src.build.set_up_process", lambda **_: None)
    monkeypatch.setattr("src.build.build_data", lambda _: data)
    monkeypatch.setattr("src.build.build_trainer", lambda *_, **__: SimpleNamespace(state=None))
    monkeypatch.setattr("src.training.checkpoints.Checkpoints.restore_weights", lambda *_: None)
    monkeypatch.setattr("tensorflow.saved_model.load", lambda _: SimpleNamespace(signatures={"serving_default": None}))
    monkeypatch.setattr("src.inspection.evaluation.measure", lambda *_, split, **__: taken.append(split))
    command.evaluate({}, run, None)
    assert taken == ["train"]
    with pytest.raises(ConfigError, match="split=test: the data has none; give one of train, or leave it out"):
        command.evaluate({}, run, "test")


def test_what_is_undefined_for_both_is_no_disagreement():
    """As the score of a class that neither the split nor the predictions have."""
    ours = {"loss": 0.5, "iou/cat": float("nan"), "iou/dog": float("nan"), "iou/owl": 0.25}
    exported = {"loss": 0.5 + 2e-7, "iou/cat": float("nan"), "iou/dog": 0.5, "iou/owl": 0.251}
    assert command.disagreements(ours, exported) == ["iou/dog", "iou/owl"]
    assert command.disagreements(ours, {"loss": float("nan")}) == ["loss"]


VAL = slice(25)


def evaluation_of(targets, outputs, *, loss, class_names=(), inputs=None, split="test"):
    """That of a model whose outputs for these targets are known; val has the first of them."""
    place = np.arange(len(targets), dtype=np.int32)
    inputs = {"place": place, **(inputs or {})}
    every = (inputs, np.asarray(targets))
    known = {"train": every, "val": tf.nest.map_structure(lambda values: values[VAL], every), "test": every}
    data = Data(**known, batch_size=7, seed=0, class_names=class_names)
    given = {
        name: keras.Input([], dtype=values.dtype if values.dtype != object else "string", name=name)
        for name, values in inputs.items()
    }
    table = keras.layers.Embedding(*outputs.shape, embeddings_initializer=lambda shape, dtype: tf.constant(outputs))
    model = keras.Model(given, table(given["place"]))
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(), loss=loss)
    return measure(trainer, data, split=split, serve=None, has_best_weights=True)


def written(evaluation, folder):
    """What is written of it: metrics.json, the rows of worst.csv, and the names of the files."""
    write(evaluation, folder / "evaluation" / "test")
    folder = folder / "evaluation" / "test"
    with (folder / "worst.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.loads((folder / "metrics.json").read_text()), rows, {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 3])
def test_labels_are_measured_each_and_have_the_threshold_of_the_highest_f1_on_val(count, tmp_path):
    """A column of 0 or 1 for each of several, or one logit for two classes."""
    random = np.random.default_rng(0)
    truth = random.random([40, count]) < 0.3
    logits = (random.normal(size=truth.shape).round(1) + truth - 2).astype(np.float32)  # with ties, and none above 0.5
    names = ["no", "yes"] if count == 1 else ["red", "round", "ripe"]
    targets = truth[:, 0].astype(np.int32) if count == 1 else truth.astype(np.float32)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    values, rows, files = written(evaluation_of(targets, logits, loss=loss, class_names=names), tmp_path)
    assert files == {"metrics.json", "worst.csv"} and "confusion" not in values
    assert [row["label"] for row in values["per_label"]] == names[-count:]
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))

    def f1(i, threshold, rows=slice(None)):
        said, there = probabilities[rows, i] > threshold - 1e-9, truth[rows, i]
        return 2 * (said & there).sum() / max(said.sum() + there.sum(), 1)

    for i, row in enumerate(values["per_label"]):
        pairs = probabilities[truth[:, i], i][:, None] - probabilities[~truth[:, i], i]
        assert row["targets"] == truth[:, i].sum() and row["auc"] == pytest.approx((np.sign(pairs) / 2 + 0.5).mean())
        assert row["f1"] == pytest.approx(f1(i, 0.5 + 1e-6))
        assert f1(i, row["threshold"], VAL) == pytest.approx(max(f1(i, t, VAL) for t in probabilities[:, i]))
        assert row["f1_at_threshold"] == pytest.approx(f1(i, row["threshold"])) and row["f1_at_threshold"] > row["f1"]
    losses = np.log1p(np.exp(np.where(truth, -logits, logits))).mean(1)
    assert [int(row["index"]) for row in rows] == np.argsort(-losses, kind="stable")[:WORST].tolist()
    assert rows[0]["prediction"].startswith(f"{names[-count]}=")


def test_a_threshold_lies_between_two_examples():
    truth, every = np.array([True, False, False, True]), np.ones(4, bool)
    logits = np.array([0.9, 0.6, 0.3, 0.8], np.float32)
    assert best_threshold(truth, logits) == pytest.approx(0.7)
    assert best_threshold(every, logits) == pytest.approx(0.3)
    assert best_threshold(~every, logits) == 0 and auc(every, logits) is None


@pytest.mark.parametrize("columns", [None, 2])
def test_numbers_are_drawn_against_the_truth_and_the_worst_are_a_table(columns, tmp_path):
    random = np.random.default_rng(0)
    targets = random.normal(size=[40, columns] if columns else [40]).astype(np.float32)
    outputs = (targets.reshape(40, -1) + random.normal(size=[40, columns or 1])).astype(np.float32)
    inputs = {"city": np.array([f"town {i} {'x' * 100}".encode() for i in range(40)], object)}
    evaluation = evaluation_of(targets, outputs, loss=keras.losses.MeanSquaredError(), inputs=inputs)
    values, rows, files = written(evaluation, tmp_path)
    assert files == {"metrics.json", "scatter.png", "worst.csv"}
    losses = np.square(targets.reshape(40, -1) - outputs).mean(1)
    worst = np.argsort(-losses)[:WORST]
    assert [int(row["index"]) for row in rows] == [example["index"] for example in values["worst"]] == worst.tolist()
    np.testing.assert_allclose([float(row["loss"]) for row in rows], losses[worst], rtol=1e-4)
    for row in rows:
        assert row["city"].startswith(f"town {row['place']} xx") and len(row["city"]) == 60
        shown = [list(map(float, row[key].split())) for key in ("truth", "prediction")]
        there = [values.reshape(40, -1)[int(row["index"])] for values in (targets, outputs)]
        np.testing.assert_allclose(shown, there, rtol=1e-4)
    picture = np.asarray(Image.open(tmp_path / "evaluation" / "test" / "scatter.png"))
    assert (picture == [8, 69, 148]).all(-1).sum() > 9 * 20 * (columns or 1)
    assert picture.shape[1] > 360 * (columns or 1)


def test_classes_of_dict_inputs_have_a_confusion_matrix_and_a_table_of_the_worst(tmp_path):
    targets = np.arange(30, dtype=np.int32) % 3
    scores = np.random.default_rng(0).normal(size=[30, 3]).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    evaluation = evaluation_of(targets, scores, loss=loss, class_names=["a", "b", "c"])
    values, rows, files = written(evaluation, tmp_path)
    assert files == {"metrics.json", "confusion.png", "worst.csv"}
    predicted = scores.argmax(1)
    assert values["confusion"] == [[int(((targets == t) & (predicted == p)).sum()) for p in range(3)] for t in range(3)]
    for row in rows:
        index = int(row["index"])
        assert (row["place"], row["truth"], row["prediction"]) == (
            str(index),
            "abc"[index % 3],
            "abc"[predicted[index]],
        )


class Halved(Supervised):
    """Gives the model other inputs than the data's."""

    def forward(self, inputs, targets=None, weights=None, *, training):
        return super().forward(inputs * 0.5, targets, weights, training=training)


def test_a_learner_that_gives_its_model_other_inputs_is_measured_as_in_training(arrays, tmp_path):
    masks = np.where(arrays[1] == 255, 0, arrays[1])
    floats = arrays[0].astype(np.float32) / 255
    options = {"batch_size": 8, "seed": 0}
    images = ImageData(train=(arrays[0], masks), val=(arrays[0], masks), num_classes=3, **options)
    plain = Data(train=(floats, masks), val=(floats, masks), class_names=["a", "b", "c"], **options)
    for name, data in (("images", images), ("plain", plain)):
        model = keras.Sequential([keras.Input(floats.shape[1:]), keras.layers.Dense(3)])
        trainer = Trainer(learner=Halved(model=model, optimizer=keras.optimizers.SGD(), loss=CrossEntropy()))
        trainer.check(data.train, data.val)
        loaded = tf.saved_model.load(str(export_any(trainer.state, data, tmp_path / name)))
        serve = loaded.signatures["serving_default"]
        wanted = trainer.evaluate(data.val)
        found = measure(trainer, data, split="val", serve=serve, has_best_weights=True).metrics
        assert found["best_weights"] == wanted
        if data is plain:
            assert found["saved_model"] == pytest.approx(wanted)
        else:  # the exported model divides by 255 itself, so it cannot take half of what is divided already
            assert "saved_model" not in found
