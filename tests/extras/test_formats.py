"""ONNX and TFLite of the project's models give what the SavedModel does, for any batch; or are refused by name."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from src.common.files import delete
from tests.support import forks
from tests.support.folders import write_classes
from tests.support.helpers import train
from tests.support.pages import SERVE, blocks

SHORT = ("epochs=1", "trainer.limit_train_batches=4", "trainer.limit_val_batches=2", "trainer.threads=1")
FLOATS = "data=table data.columns=[age,bmi,bp]"
UNSUPPORTED = "which the model's texts go through"
# What each format says; None where it is made.
MODELS = {
    "data=digits model=cnn": (None, None),
    "model.filters=4 model.depth=2": (None, None),
    "model=unet_mobilenet_v2 data.image_size=64": (None, None),
    "data=digits_binary": (None, None),
    "data=digits_multilabel": (None, None),
    "data=class_folder data.path=pets data.image_size=32 model=cnn_pooled name=pets": (None, None),
    FLOATS: (None, None),
    "data=table": (None, f"TFLite has nothing for ConcatV2, {UNSUPPORTED}"),
    "data=texts": (f"ONNX has nothing for StaticRegexReplace, StringSplitV2, {UNSUPPORTED}", UNSUPPORTED),
    "data=windows": (None, "TFLite has nothing for the lists of tensors that recurrent layers keep;"),
    "data=characters data.length=32 model.blocks=1 model.units=16": ("ONNX has nothing for Erfc;", None),
    "data=digits model=mlp precision=mixed_bfloat16": (
        "a process without this project cannot run it: ",
        "TFLite has nothing for BiasAdd, MatMul, Relu;",
    ),
}


def onnx(run):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(run / "onnx" / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def tflite(run):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(run / "tflite" / "model.tflite")).get_signature_runner("serving_default")
    return lambda inputs: runner(**inputs)


READERS = {"onnx": onnx, "tflite": tflite}


def made(takes, rows):
    """Any inputs that a signature takes."""
    random = np.random.default_rng(rows)
    found = {}
    for name, spec in takes.items():
        shape = [rows, *spec.shape[1:]]
        if spec.dtype == tf.string:
            found[name] = random.choice(["a", "b", "other"], shape)
        elif spec.dtype.is_integer:
            found[name] = random.integers(0, 256 if spec.dtype == tf.uint8 else 5, shape)
        else:
            found[name] = random.random(shape)
        found[name] = found[name].astype(str if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)
    return found


def trained(options, folder):
    if "data.path=pets" in options:
        write_classes(folder / "pets", {"cats": 40, "dogs": 40}, size=32)
    done = train(*shlex.split(options), *SHORT, cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in folder.glob("outputs/*/*/run.json"))
    return run


@pytest.mark.parametrize("options", MODELS)
def test_a_model_in_each_format(options, tmp_path):
    run = trained(options, tmp_path)
    done = forks.run("src.export", [str(run), "--to", "onnx,tflite"], cwd=tmp_path)
    print(done.stdout, done.stderr)  # the differences, with `pytest -s`
    recorded = json.loads((run / "run.json").read_text()).get("exports", {})
    serve = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"]
    for name, refused in zip(READERS, MODELS[options], strict=True):
        if refused:
            (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"error: {name}: "))
            assert refused in line and not (run / name).exists() and name not in recorded
            continue
        assert f"{run}/{name}/model.{name}  {recorded[name]['examples']} examples in batches of 1 and " in done.stdout
        assert recorded[name]["largest_difference"] <= recorded[name]["tolerance"] == 1e-5
        assert all(recorded[name]["packages"].values())
        read = READERS[name](run)
        for rows in (5, 0, 1, 70):
            inputs = made(serve.structured_input_signature[1], rows)
            wanted = {key: value.numpy() for key, value in serve(**inputs).items()}
            found = read(inputs)
            assert set(found) == set(wanted)
            for key, value in wanted.items():
                np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=f"{name} {key} {rows}")
    assert done.returncode == int(any(MODELS[options])) and not list(run.glob(".tmp-*"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder, and a run of digits in all formats."""
    folder = tmp_path_factory.mktemp("exported")
    run = trained("data=digits model=cnn", folder)
    assert forks.run("src.export", [str(run), "--to", "onnx,tflite"], cwd=folder).returncode == 0
    from src.data.digit_scenes.digits import load_digits

    np.save(folder / "images.npy", load_digits()[0][:3])
    return folder, run


@pytest.mark.parametrize(("heading", "count"), [("In Python, with ONNX Runtime", 1), ("In Python, with TFLite", 2)])
def test_the_page_shows_how_to_read_them(exported, heading, count):
    folder, run = exported
    classes = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"](
        image=np.load(folder / "images.npy")
    )["class"]
    snippets = blocks(SERVE, heading, "python", run=run)
    assert len(snippets) == count
    printed = [
        subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
        for code in snippets
    ]
    assert printed[0] == f"{[str(number) for number in classes.numpy()]}\n"
    assert printed[1:] in ([], ["[(3, 10), (3,)]\n"])


@pytest.mark.parametrize("shape", [(2, 9, 9, 1), (2, 8, 8, 3)])
@pytest.mark.parametrize("name", READERS)
def test_images_of_another_size_are_an_error(exported, name, shape):
    read = READERS[name](exported[1])
    with pytest.raises(Exception, match=r"[Ii]nvalid dimensions|failed to prepare"):
        read({"image": np.zeros(shape, np.uint8)})
    assert read({"image": np.zeros([2, 8, 8, 1], np.uint8)})["class"].shape == (2,)


def test_an_export_that_is_killed_leaves_nothing_that_looks_whole(exported):
    folder, run = exported
    for name in READERS:
        delete(run / name)
    command = [sys.executable, "-m", "src.export", str(run), "--to", "onnx"]
    environment = {**os.environ, "PYTHONPATH": forks.PYTHONPATH}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    while not list(run.glob(".tmp-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "onnx").exists()
    assert forks.run("src.export", [str(run), "--to", "onnx,tflite"], cwd=folder).returncode == 0
    assert (run / "onnx" / "model.onnx").is_file() and not list(run.glob(".tmp-*"))


def test_the_hub_reads_the_card_and_takes_what_the_page_uploads(exported):
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import filter_repo_objects

    folder, run = exported
    assert forks.run("src.card", [str(run)], cwd=folder).returncode == 0
    card = ModelCard.load(run / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("tensorflow", "image-classification")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    recorded = json.loads((run / "run.json").read_text())["best"]["metrics"]
    assert results == {name: value for name, value in recorded.items() if name.startswith("val/")}
    upload = shlex.split(blocks(SERVE, "On the Hugging Face hub", run=run)[0].splitlines()[-1])
    patterns = [word for flag, word in itertools.pairwise(upload) if flag == "--include"]
    files = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    kept = {path.partition("/")[0] for path in filter_repo_objects(files, allow_patterns=patterns)}
    assert kept == {"README.md", "saved_model", "onnx", "tflite"}
