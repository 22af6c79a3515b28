"""What TensorBoard's own reader finds in event files: `written(folder)["val", "loss"]` is a list of (step, value)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def written(folder: Path) -> dict[tuple[str, str], list[tuple[int, Any]]]:
    """(step, value) of each (split, tag) by step, duplicates included; the split of `folder` itself is "".

    By step, since two files of one second are read in an order that their names' counters decide as text.
    """
    found = {}
    for split in ("", *sorted(path.name for path in folder.iterdir() if path.is_dir())):
        events = EventAccumulator(str(folder / split), size_guidance={"tensors": 0}, purge_orphaned_data=False)
        events.Reload()
        for tag in events.Tags()["tensors"]:
            points = [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
            found[split, tag] = sorted(points, key=lambda point: point[0])
    return found


def pixels(value: np.ndarray) -> np.ndarray:
    """The picture uint8 [H, W, 3] of an image summary: its width, its height, and a PNG."""
    picture = decoded(value[2])
    assert [int(value[0]), int(value[1])] == [picture.shape[1], picture.shape[0]]
    return picture


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))
