"""Makes the README's picture from a real run: test scenes, their masks, and what the exported model predicts.

    python -m docs.pictures outputs/digit_scenes/<run>

The three rows of docs/predictions.png are image, truth and prediction; a colour is a digit, black the background.
"""

from __future__ import annotations

import colorsys
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from src.data.sources import digit_scenes

COUNT, SCALE, GAP = 10, 2, 4  # scenes, pixels a pixel, pixels between two scenes


def palette(classes: int) -> np.ndarray:
    """A colour for each class, the first black: uint8 [classes, 3]."""
    colours = [colorsys.hsv_to_rgb(i / (classes - 1), 0.75 if i % 2 else 0.45, 1.0) for i in range(classes - 1)]
    return np.uint8([(0, 0, 0), *(np.multiply(colour, 255) for colour in colours)])


def main() -> None:
    """Write docs/predictions.png."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = tf.saved_model.load(str(Path(sys.argv[1]) / "saved_model" / "1"))
    batches = digit_scenes(batch_size=COUNT, seed=0).raw("test")
    images, masks = (tensor.numpy() for tensor in batches.next(batches.open(0, 0), 0))
    predicted = model.signatures["serving_default"](image=tf.constant(images))["class"].numpy()
    colours = palette(11)
    rows = [images, colours[masks], colours[predicted]]
    height, width = images.shape[1:3]
    sheet = np.full([3, COUNT, height * SCALE + GAP, width * SCALE + GAP, 3], 255, np.uint8)
    for row, pictures in enumerate(rows):
        sheet[row, :, : height * SCALE, : width * SCALE] = pictures.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(3 * sheet.shape[2], COUNT * sheet.shape[3], 3)[:-GAP, :-GAP]
    path = Path(__file__).with_name("predictions.png")
    path.write_bytes(tf.io.encode_png(sheet).numpy())
    print(path)


if __name__ == "__main__":
    main()
