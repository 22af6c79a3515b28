"""A batch: a tuple (inputs, targets, weights), each a nest of tensors [n, ...]; the last two may be left out.

A nest is a tensor, or a dict, list or tuple of nests. Tensors may be ragged, and of strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

Nest: TypeAlias = Any
Batch: TypeAlias = tuple[Nest, ...]
NAMES = ("inputs", "targets", "weights")
LONGEST_CELL = 60  # characters
INPUTS, OUTPUTS = "inputs", "outputs"  # what is exported is called so where it has no name of its own


def examples_of(batch: Nest) -> tf.Tensor:
    """How many examples it has: int32 []."""
    first = tf.nest.flatten(batch)[0]
    return tf.cast(first.nrows(), tf.int32) if isinstance(first, tf.RaggedTensor) else tf.shape(first)[0]


def batch_spec_of(batch: Nest) -> Nest:
    """The tf.TypeSpec of each of its tensors, for any number of examples.

    Args:
        batch: tensors, arrays or specs [n, ...].
    """

    def spec_of(part: Any) -> tf.TypeSpec:
        shape = [None, *part.shape[1:]]
        if isinstance(part, tf.RaggedTensor | tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec(
                shape,
                part.dtype,
                part.ragged_rank,
                part.row_splits.dtype if isinstance(part, tf.RaggedTensor) else part.row_splits_dtype,
            )
        return tf.TensorSpec(shape, part.dtype)

    return tf.nest.map_structure(spec_of, batch)


def zeros_of(batch_spec: Nest) -> Nest:
    """One example of zeros, or of empty strings; an axis of any length has 1."""

    def of(spec: tf.TypeSpec) -> tf.Tensor | tf.RaggedTensor:
        zeros = tf.zeros([1, *(size or 1 for size in spec.shape[1:])], spec.dtype)
        is_ragged = isinstance(spec, tf.RaggedTensorSpec)
        return tf.RaggedTensor.from_tensor(zeros, ragged_rank=spec.ragged_rank) if is_ragged else zeros

    return tf.nest.map_structure(of, batch_spec)


def class_numbers(targets: Any) -> tf.Tensor:
    """Targets that are numbers of classes as int32; what int32 cannot hold, or has a fraction, is no class at all."""
    targets = tf.convert_to_tensor(targets)
    numbers = tf.saturate_cast(targets, tf.int32)
    if targets.dtype.is_floating:
        numbers = tf.where(tf.cast(numbers, targets.dtype) == targets, numbers, tf.int32.min)
    return numbers


def told_apart(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, each of which can stand in a line of a list and in a table.

    Raises:
        ValueError: one is empty, has several lines or a space at an end, or two are alike.
    """
    names = tuple(map(str, class_names))
    for name in names:
        if name.splitlines() != [name] or name != name.strip():
            raise ValueError(
                f"a class has the name {name!r}; give it one line of text, neither empty nor with a space at an end"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes have the name {twice!r}; give each one of its own")
    return names


def is_single(nest: Nest) -> bool:
    """Whether it is one tensor, or nothing, and no dict, list or tuple."""
    return not isinstance(nest, dict | list | tuple)


def leaf_names(batch: Batch) -> list[str]:
    """What messages call its tensors, in the order of `tf.nest.flatten`: `inputs.age`, `targets`."""
    return [".".join(map(str, (NAMES[path[0]], *path[1:]))) for path, _ in keras.tree.flatten_with_path(batch)]


def classes_of(scores: tf.Tensor) -> tf.Tensor:
    """The class of the highest score of [..., classes], or of two that have one logit [..., 1]: int32 [...]."""
    if scores.shape[-1] == 1:
        return tf.cast(scores[..., 0] > 0, tf.int32)
    return tf.argmax(scores, axis=-1, output_type=tf.int32)


def part_names(nest: Nest) -> list[Any]:
    """The names of its parts, or their numbers where it is a list; none of a single tensor."""
    return list(nest) if isinstance(nest, dict) else [] if is_single(nest) else list(range(len(nest)))


def part_of(nest: Nest, name: Any, what: str) -> Nest:
    """The part of this name, or of this number where it is a list.

    Raises:
        ValueError: there is none.
    """
    names = part_names(nest)
    if name not in names:
        known = ", ".join(map(str, names)) or "no names, being a single tensor"
        raise ValueError(f"{what} have no {name!r}; they have {known}")
    return nest[name]


def plain_name(name: str) -> str:
    """A name as exported models have it: a letter, and ASCII letters, digits and `_` after it."""
    plain = re.sub(r"\W", lambda sign: f"u{ord(sign[0]):x}" if ord(sign[0]) > 127 else "_", name, flags=re.ASCII)
    return plain if plain[:1].isalpha() and plain != "self" else f"of_{plain}"


def named_parts(nest: Nest, name: str) -> dict[str, Any]:
    """The parts of a nest by their plain names, `a_b` for {"a": {"b": ...}}; a single one has the name given.

    Raises:
        ValueError: two would have one name.
    """
    if is_single(nest):
        return {name: nest}
    found: dict[str, Any] = {}
    for path, part in keras.tree.flatten_with_path(nest):
        plain = plain_name("_".join(map(str, path if isinstance(path[0], str) else (name, *path))))
        if plain in found:
            raise ValueError(f"two of {', '.join(map(str, nest))} would be {plain!r} in an exported model; rename one")
        found[plain] = part
    return found


def served_parts(nest: Nest, name: str) -> dict[str, Any]:
    """As `named_parts`, of dense tensors alone, as signatures take them: a ragged one `a` as its values, `a`, and
    `a_row_splits`, or `a_row_splits_0` and so on from the outermost where rows are of rows.

    Args:
        nest: of tensors, or of their specs.
    """
    found: dict[str, Any] = {}
    for key, part in named_parts(nest, name).items():
        if isinstance(part, tf.RaggedTensor):
            found[key], splits = part.flat_values, list(part.nested_row_splits)
        elif isinstance(part, tf.RaggedTensorSpec):
            found[key] = tf.TensorSpec([None, *part.shape[part.ragged_rank + 1 :]], part.dtype)
            splits = [tf.TensorSpec([None], part.row_splits_dtype)] * part.ragged_rank
        else:
            found[key], splits = part, []
        found |= dict(zip(splits_names(key, len(splits)), splits, strict=True))
    return found


def splits_names(name: str, count: int) -> list[str]:
    """What the row splits of a ragged tensor are called in signatures, from the outermost."""
    return [f"{name}_row_splits{f'_{i}' if count > 1 else ''}" for i in range(count)]


def described(nest: Nest) -> str:
    """Dtypes and shapes, by name where there are several: `float32 (None, 3)`, `{'age': float32 (None,), ...}`."""
    if isinstance(nest, dict):
        return "{" + ", ".join(f"{key!r}: {described(part)}" for key, part in nest.items()) + "}"
    if isinstance(nest, list | tuple):
        return "[" + ", ".join(map(described, nest)) + "]"
    return "nothing" if nest is None else f"{tf.as_dtype(nest.dtype).name} {nest.shape}"


def cell(value: Any) -> str:
    """A text, a number or an array on one line, shortened."""
    if isinstance(value, bytes):
        text = " ".join(value.decode("utf-8", "replace").split())
    elif isinstance(value, float | np.floating):
        text = f"{value:.6g}"
    elif np.ndim(value):
        text = " ".join(map(cell, np.reshape(value, -1)[:LONGEST_CELL]))
    else:
        text = str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."
