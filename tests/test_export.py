"""`python -m src.export`: what it refuses before it computes, what it proves, and that nothing half-made is left.

ONNX and TFLite, which need packages of their own, are in tests/extras.
"""

from __future__ import annotations

import importlib.util
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from src import export as command
from src.callbacks.export import export
from src.common.command import exit_code
from src.common.lock import hold
from src.data.images.image_data import ImageData
from src.inspection import conversion
from src.inspection.conversion import TOLERANCE, Converter, Refused
from src.runs.collection import lock_path
from tests.comparison.made import make_run
from tests.support import forks
from tests.support.helpers import only_run, run_module, train

SMALL = ("data=digits", "model=mlp", "model.hidden_units=[8]", "epochs=1", "trainer.limit_train_batches=4")


def said(capsys, *words):
    """The exit code and standard error of the command, in this process."""
    return exit_code(command.main, [*map(str, words)]), capsys.readouterr().err


@pytest.mark.parametrize("to", ["onxx", "onnx,", "", "onnx,keras,saved_model"])
def test_what_is_no_format_is_refused(to, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    code, error = said(capsys, tmp_path, "--to", to)
    assert code == 2 and "it must be one or more of onnx, tflite, keras" in error


@pytest.mark.parametrize(
    ("to", "there", "packages"),
    [
        ("onnx", [], "tf2onnx and onnxruntime: pip install -c constraints.txt -e '.[onnx]'"),
        ("keras,onnx", ["tf2onnx"], "needs onnxruntime: pip install -c constraints.txt -e '.[onnx]'"),
        ("tflite", ["tf2onnx"], "needs ai-edge-litert: pip install -c constraints.txt -e '.[tflite]'"),
    ],
)
def test_a_missing_package_is_answered_first_with_the_command(to, there, packages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in there or None)
    code, error = said(capsys, tmp_path, "--to", to)
    assert code == 2 and packages in error


def test_runs_without_a_saved_model_are_refused_without_tensorflow(tmp_path):
    for label, status, message in (
        ("a", "interrupted", "is interrupted; only a completed run is exported: "),
        ("b", "completed", "b/saved_model/1 is not there; train the run with callback.export"),
    ):
        make_run(tmp_path, label, status=status)
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['tensorflow'] = None")
        path = f"{tmp_path}:{forks.PYTHONPATH}"
        done = run_module("src.export", label, "--to", "keras", cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_a_run_in_other_formats_is_recorded_and_computes_the_same(tmp_path):
    assert train(*SMALL, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "digits")
    with hold(lock_path(run)):
        locked = forks.run("src.export", [str(run), "--to", "keras"], cwd=tmp_path)
    assert locked.returncode == 1 and "in use by" in locked.stderr, locked.stderr
    (run / "keras").mkdir()
    (run / "keras" / "old").touch()
    shutil.rmtree(run / "checkpoints")  # the SavedModel's weights are enough
    done = forks.run("src.export", [str(run), "--to", "keras"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{run}/keras/model.keras  64 examples in batches of 1 and 32: largest difference ")
    assert sorted(path.name for path in (run / "keras").iterdir()) == ["class_names.txt", "model.keras"]
    assert not list(run.glob(".tmp-*"))
    recorded = json.loads((run / "run.json").read_text())
    proof = recorded["exports"]["keras"]
    assert recorded["status"] == "completed" and (proof["examples"], proof["batch_sizes"]) == (64, [1, 32])
    assert 0 <= proof["largest_difference"] <= proof["tolerance"] == TOLERANCE
    images = np.random.default_rng(0).integers(0, 256, [5, 8, 8, 1], dtype=np.uint8)
    served = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"](image=images)["logits"]
    ours = keras.saving.load_model(run / "keras" / "model.keras")(images / np.float32(255))
    np.testing.assert_allclose(ours, served, atol=1e-5)
    again = train(*SMALL, cwd=tmp_path)
    assert again.returncode == 0 and "already completed, reused" in again.stdout


class Halved(keras.layers.Layer):
    """A class that a process without this file does not know."""

    def call(self, inputs):
        return inputs / 2


def built(folder, *layers):
    """A model of 4x4 images, its SavedModel and its data, with fewer examples than a proof wants."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([4, 4, 1]), keras.layers.Flatten(), *layers, keras.layers.Dense(3)])
    export(model, folder / "saved_model" / "1", class_names=["a", "b", "c"])
    images = np.random.default_rng(0).integers(0, 256, [10, 4, 4, 1], dtype=np.uint8)
    data = ImageData(train=(images, np.arange(10) % 3), num_classes=3, batch_size=4, seed=0)
    return model, Converter(folder / "saved_model" / "1", data)


def test_a_file_that_computes_something_else_or_cannot_be_read_is_not_kept(tmp_path):
    model, converter = built(tmp_path)
    assert converter.write("keras", tmp_path / "keras", model=model).batch_sizes == [1, 2, 4]
    before = (tmp_path / "keras" / "model.keras").read_bytes()
    model.layers[-1].bias.assign([0, 0, 1e-4])
    with pytest.raises(Refused, match=r"outputs differs from the SavedModel's by [\d.e-]+, more than 1e-05"):
        converter.write("keras", tmp_path / "keras", model=model)
    assert (tmp_path / "keras" / "model.keras").read_bytes() == before
    model, converter = built(tmp_path / "own", Halved())
    with pytest.raises(
        Refused, match=r"a process without this project cannot run it: .*Could not locate class 'Halved'"
    ):
        converter.write("keras", tmp_path / "own" / "keras", model=model)
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["saved_model"]


def test_other_inputs_than_the_data_are_refused(tmp_path):
    model = keras.Sequential([keras.Input([5]), keras.layers.Dense(3)])
    export(model, tmp_path / "1", dtype=tf.float32)
    data = ImageData(train=(np.zeros([3, 4, 4, 1], np.uint8), np.arange(3)), num_classes=3, batch_size=4, seed=0)
    with pytest.raises(Refused, match="takes other inputs than this data's"):
        Converter(tmp_path / "1", data)


LOGITS = np.array([[1.0, 1.0 + 1e-6, 0.0], [5.0, 0.0, 1.0]], np.float32)
EXPECTED = {"logits": LOGITS, "class": np.array([1, 0], np.int32)}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"class": np.array([0, 0], np.int32)}, None),  # a tie
        ({"class": np.array([1, 2], np.int32)}, "class differs from the SavedModel's for 1 of 2"),
        ({"class": np.array([1.0, 0.0], np.float32)}, "class is float32"),
        ({"class": np.array([1], np.int32)}, r"class is int32 \[1\], and the SavedModel gives int32 \[2\]"),
        ({"class": None}, "class is nothing"),
        ({"logits": LOGITS + np.float32(4e-6)}, None),
        ({"logits": LOGITS + np.float32(4e-5)}, "logits differs"),
        ({"logits": LOGITS * np.nan}, "logits differs"),
        ({"logits": LOGITS[:, :2]}, "logits is float32"),
    ],
)
def test_what_counts_as_the_same(found, reason):
    there = {name: value for name, value in {**EXPECTED, **found}.items() if value is not None}
    if reason:
        with pytest.raises(Refused, match=reason):
            conversion.compared([EXPECTED], [there], [1, 2])
        return
    proof = conversion.compared([EXPECTED], [there], [1, 2])
    assert (proof.examples, proof.classes, proof.ties) == (2, 2, int(found.get("class", [1])[0] == 0))
    assert ("but for 1 tie" in str(proof)) == bool(proof.ties)


def test_scores_above_1_count_by_their_share():
    numbers = {"outputs": np.array([[3000.0]], np.float32)}
    proof = conversion.compared([numbers], [{"outputs": numbers["outputs"] + np.float32(0.01)}], [1])
    assert 3e-6 < proof.largest_difference < 4e-6 and "classes" not in str(proof)
