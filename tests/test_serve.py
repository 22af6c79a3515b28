"""What docs/serve.md shows of a SavedModel works as it stands there; ONNX and TFLite are in tests/extras."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from src.data.digit_scenes.digits import load_digits
from tests.support import forks
from tests.support.helpers import only_run, train
from tests.support.pages import SERVE, blocks

SHORT = ("epochs=1", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of digits, one of a table, and images."""
    folder = tmp_path_factory.mktemp("serve")
    for options in (("data=digits", "model=cnn"), ("data=table",)):
        done = train(*options, *SHORT, cwd=folder)
        assert done.returncode == 0, done.stderr
    np.save(folder / "images.npy", load_digits()[0][:3])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return only_run(folder / "outputs" / "digits").relative_to(folder)


def signatures(run):
    return tf.saved_model.load(str(run / "saved_model" / "1")).signatures


def output_of(command, folder):
    """What a command prints that knows nothing of this project."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_python(folder, run):
    (code,) = blocks(SERVE, "In Python, with TensorFlow", "python", run=run)
    served = signatures(folder / run)["serving_default"](image=load_digits()[0][:3])
    wanted = [str(number) for number in served["class"].numpy()]
    assert output_of([sys.executable, "-P", "-c", code], folder) == f"{wanted}\n"


def test_in_python_with_keras(folder, run):
    made = forks.run("src.export", [str(run), "--to", "keras"], cwd=folder)
    assert made.returncode == 0, made.stderr
    (code,) = blocks(SERVE, "In Python, with Keras", "python", run=run)
    served = signatures(folder / run)["serving_default"](image=load_digits()[0][:3])
    wanted = [str(number) for number in served["class"].numpy()]
    assert output_of([sys.executable, "-P", "-c", code], folder) == f"{wanted}\n"


def test_from_a_shell(folder, run):
    show, infer = blocks(SERVE, "From a shell", run=run)[0].splitlines()
    command = str(Path(sys.executable).with_name("saved_model_cli"))
    told = output_of([command, *shlex.split(show)[1:]], folder)
    assert "inputs['image'] tensor_info:\n      dtype: DT_UINT8\n      shape: (-1, 8, 8, 1)" in told
    classes = signatures(folder / run)["serving_default"](image=load_digits()[0][:3])["class"].numpy()
    assert f"Result for output key class:\n{classes}\n" in output_of([command, *shlex.split(infer)[1:]], folder)


def answered(loaded, body):
    """What TensorFlow Serving's REST answers, by its rules for rows and columns: the shape and dtype of each output."""
    serve = loaded[body.get("signature_name", "serving_default")]
    takes = serve.structured_input_signature[1]
    columns = body.get("inputs") or body["instances"]
    if "instances" in body and isinstance(columns[0], dict):
        columns = {name: [row[name] for row in columns] for name in columns[0]}
    columns = columns if isinstance(columns, dict) else {next(iter(takes)): columns}
    assert set(columns) == set(takes)
    return serve(**{name: tf.constant(values, takes[name].dtype) for name, values in columns.items()})


def test_bodies_for_serving(folder, run):
    image, names, rows, columns = map(json.loads, blocks(SERVE, "TensorFlow Serving", "json"))
    digits, table = (signatures(only_run(folder / "outputs" / name)) for name in ("digits", "table"))
    found = answered(digits, image)
    assert {name: value.shape.as_list() for name, value in found.items()} == {"logits": [1, 10], "class": [1]}
    assert answered(digits, names)["names"].numpy().tolist() == [b"0", b"7"]
    of_rows, of_columns = (answered(table, body)["outputs"] for body in (rows, columns))
    assert of_rows.shape == [1, 1] and of_rows == of_columns
    versions = [path.name for path in (folder / run / "saved_model").iterdir()]
    assert versions == ["1"], "Serving takes whatever has a number for a version"


def test_the_page_is_linked_and_names_what_there_is():
    text = SERVE.read_text()
    for file in ("saved_model/1", "onnx/model.onnx", "tflite/model.tflite", "keras/model.keras"):
        assert f"| `{file}` |" in text
