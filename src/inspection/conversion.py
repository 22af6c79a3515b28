"""A run's SavedModel in other formats, each proven on examples by a process that has nothing of this project.

converter = Converter(Path("run/saved_model/1"), data)
converter.write("onnx", Path("run/onnx")).largest_difference    # run/onnx/model.onnx
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from src.common.errors import one_line
from src.common.files import literal, replacing
from src.common.text import plural
from src.data.batch import INPUTS, OUTPUTS, Nest, examples_of, is_single, served_parts
from src.data.data import Data
from src.data.pipeline import Batches, every_batch
from src.inspection import run_exported
from src.inspection.evaluation import takes

EXAMPLES = 64
TOLERANCE = 1e-5  # of a number, as its share where it is above 1
OPSET = 17  # of ONNX
NAMES = {"onnx": "ONNX", "tflite": "TFLite"}
WAY_OUT = "the SavedModel has all of it, and another format may; or train in float32 with other layers"
TO_TFLITE = """
import sys, tensorflow as tf
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1], signature_keys=["serving_default"])
open(sys.argv[2], "wb").write(converter.convert())
"""

Arrays = dict[str, np.ndarray]


class Refused(ValueError):
    """The model cannot be had in this format; nothing has been written."""


@dataclass(frozen=True)
class Proof:
    """How an exported file compares with the SavedModel.

    Attributes:
        largest_difference: of all numbers that both give; of one above 1, its share.
        classes: how many were compared, each pixel's where they are of pixels.
        ties: of them, those that differ where the SavedModel's scores of both are equal within the tolerance.
    """

    examples: int
    batch_sizes: list[int]
    largest_difference: float
    classes: int
    ties: int
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        sizes = " and ".join(map(str, self.batch_sizes))
        ties = f" but for {plural(self.ties, 'tie')} in {self.classes}" if self.ties else ""
        classes = f", classes equal{ties}" if self.classes else ""
        return (
            f"{plural(self.examples, 'example')} in batches of {sizes}: largest difference "
            f"{self.largest_difference:.1e} (tolerance {self.tolerance:.0e}){classes}"
        )


class Converter:
    """Of one SavedModel.

    Args:
        data: of the run, whose first examples of the val split, or of train where there is none, are the proof.

    Attributes:
        weights: of the model, in the order of its variables.

    Raises:
        Refused: the model takes other inputs than the data's, so that there is nothing to prove anything with.
    """

    def __init__(self, saved_model: Path, data: Data) -> None:
        self._saved_model, self._data = saved_model, data
        with literal(saved_model) as name:
            self._loaded = tf.saved_model.load(name)
        serve = self._loaded.signatures["serving_default"]
        self.weights = self._loaded.weights
        batches = data.raw("val" if "val" in data.splits() else "train")
        if not takes(serve, batches.element_spec[0]):
            raise Refused(f"{saved_model} takes other inputs than this data's, so no export of it can be proven")
        self._batches = _examples(batches)
        self._sizes = [int(examples_of(batch)) for batch in self._batches]
        self._inputs = [_named(serve, batch) for batch in self._batches]
        self._expected = [_arrays(serve(**inputs)) for inputs in self._inputs]

    def write(self, to: str, folder: Path, *, model: keras.Model | None = None) -> Proof:
        """Make `folder` anew, with the model as `model.<to>` and the names of classes, if it gives the same.

        Args:
            to: onnx, tflite or keras.
            model: with `weights`, for `keras`.

        Raises:
            Refused: it cannot be converted or run, or gives something else; `folder` is left as it was.
        """
        inputs, expected = [_arrays(tensors) for tensors in self._inputs], self._expected
        with replacing(folder) as temporary:
            temporary.mkdir()
            file = temporary / f"model.{to}"
            if model is None:
                with literal(self._saved_model) as name:
                    _convert(to, name, file, reads_texts=any(array.dtype.kind == "U" for array in inputs[0].values()))
            else:
                inputs = [_as_keras_takes(self._data.prepare(batch)) for batch in self._batches]
                expected = [_as_keras_gives(outputs) for outputs in expected]
                model.save(file)
            names = self._saved_model / "assets" / "class_names.txt"
            if names.is_file():
                shutil.copy(names, temporary)
            return compared(expected, _run(file, inputs), self._sizes)


def _examples(batches: Batches) -> list[Nest]:
    """The inputs of the first example alone, then of the first batches up to EXAMPLES."""
    found: list[Nest] = []
    left = EXAMPLES
    for inputs, *_ in every_batch(batches):
        rows = min(int(examples_of(inputs)), left)
        found += [_first(inputs, count) for count in ((rows,) if found else (1, rows))]
        left -= rows
        if not left:
            break
    return found


def _convert(to: str, saved_model: str, file: Path, *, reads_texts: bool) -> None:
    """By the converter, in a process of its own: it prints much, and imports what nothing else here needs."""
    words = {
        "onnx": f"-m tf2onnx.convert --signature_def serving_default --tag serve --opset {OPSET} --saved-model".split(),
        "tflite": ["-c", TO_TFLITE],
    }
    done = _python(*words[to], saved_model, *(["--output"] if to == "onnx" else []), str(file))
    if unsupported := _unsupported(done.stderr):
        why = f"{NAMES[to]} has nothing for {', '.join(unsupported)}"
        why += ", which the model's texts go through" if reads_texts else ""
    elif done.returncode or not file.is_file():
        why = f"the converter has failed: {_last_line(done.stderr)}"
    else:
        return
    raise Refused(f"{why}; {WAY_OUT}")


def _unsupported(text: str) -> list[str]:
    """The operations that a converter says it does not know."""
    names = [name for line in re.findall(r"^TF Select ops: (.*)$", text, re.MULTILINE) for name in line.split(", ")]
    for counts in re.findall(r"Unsupported ops: Counter\((\{.*?\})\)", text):
        names += ast.literal_eval(counts)
    if "Lowering tensor list ops is failed" in text:
        names.append("the lists of tensors that recurrent layers keep")
    return sorted(set(names))


def _run(file: Path, batches: Sequence[Arrays]) -> list[Arrays]:
    """What the file gives for each batch, in a process that has nothing of this project."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        named: dict[str, Any] = {
            f"{i}/{name}": array for i, batch in enumerate(batches) for name, array in batch.items()
        }
        np.savez(inputs, **named)
        done = _python(run_exported.__file__, str(file), str(inputs), str(outputs))
        if done.returncode:
            raise Refused(f"a process without this project cannot run it: {_last_line(done.stderr)}; {WAY_OUT}")
        found: list[Arrays] = [{} for _ in batches]
        with np.load(outputs) as stored:
            for key in stored:
                number, _, name = key.partition("/")
                found[int(number)][name] = stored[key]
    return found


def compared(expected: Sequence[Arrays], found: Sequence[Arrays], sizes: Sequence[int]) -> Proof:
    """The largest difference and the ties, both within the tolerance.

    Raises:
        Refused: something is missing, of another shape or dtype, or differs by more.
    """
    largest, classes, ties = 0.0, 0, 0
    for ours, theirs in zip(expected, found, strict=True):
        for name, value in ours.items():
            other = theirs.get(name)
            if other is None or other.shape != value.shape or other.dtype.kind != value.dtype.kind:
                got = "nothing" if other is None else f"{other.dtype} {list(other.shape)}"
                raise Refused(f"{name} is {got}, and the SavedModel gives {value.dtype} {list(value.shape)}")
            if value.dtype.kind == "f":
                share = np.abs(other.astype(np.float64) - value) / np.maximum(np.abs(value), 1)
                if not (share <= TOLERANCE).all():
                    raise Refused(f"{name} differs from the SavedModel's by {share.max():.2g}, more than {TOLERANCE}")
                largest = max(largest, float(share.max(initial=0)))
                continue
            differ = value != other
            if differ.any() and not _are_ties(ours, value, other):
                raise Refused(f"{name} differs from the SavedModel's for {int(differ.sum())} of {differ.size}")
            classes, ties = classes + differ.size, ties + int(differ.sum())
    return Proof(sum(sizes[1:]), sorted(set(sizes)), largest, classes, ties)


def _are_ties(outputs: Arrays, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the scores of other classes are as high as the classes' own, within the tolerance."""
    scores = outputs.get("logits", outputs.get(OUTPUTS))
    if scores is None or scores.shape[:-1] != ours.shape or scores.shape[-1] < 2:
        return False
    own, other = (np.take_along_axis(scores, classes[..., None].astype(int), -1) for classes in (ours, theirs))
    return bool((np.abs(own - other) <= 2 * TOLERANCE * np.maximum(np.abs(own), 1)).all())


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that does not look for modules where this one was started, and has no GPU."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1].partition(" Full object config: ")[0]) if lines else "it does not say why"


def _first(inputs: Nest, rows: int) -> Nest:
    return tf.nest.map_structure(lambda part: part[:rows], inputs)


def _named(serve: Any, inputs: Nest) -> dict[str, tf.Tensor]:
    """By the names of the exported function."""
    names = list(serve.structured_input_signature[1])
    return {names[0]: inputs} if len(names) == 1 and is_single(inputs) else served_parts(inputs, INPUTS)


def _arrays(tensors: Mapping[str, tf.Tensor]) -> Arrays:
    """With texts as NumPy's own."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return {name: np.char.decode(a.astype(bytes), "utf-8") if a.dtype == object else a for name, a in arrays.items()}


def _as_keras_takes(inputs: Nest) -> Arrays:
    """Inputs as a Keras model takes them, by name, or under no name where there is one alone."""
    parts = inputs if isinstance(inputs, dict) else {"": inputs}
    if not all(isinstance(part, tf.Tensor) for part in parts.values()):
        raise Refused("its inputs are nested or ragged, which the proof of a Keras file does not know")
    return _arrays(parts)


def _as_keras_gives(outputs: Arrays) -> Arrays:
    """Of what a SavedModel gives, what its Keras model does."""
    if "logits" in outputs:
        return {OUTPUTS: outputs["logits"]}
    return {OUTPUTS: outputs[OUTPUTS]} if OUTPUTS in outputs else outputs
