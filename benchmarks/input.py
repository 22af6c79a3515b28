"""Reading and augmenting pictures, against tf.data as TensorFlow's guides write it: seconds an epoch.

    python -m benchmarks input [--repeats N]

The same photographs and masks, 400 x 300 or so, as a folder of JPEG files and as a set of TensorFlow Datasets, resized
to 128 x 128, flipped, moved and brightened, in batches of 8. The peer decodes and resizes in a parallel map, caches,
and augments single examples with stateful random numbers; ours is the data that the config names. No model: what
batches hold is added up, and the sums agree where nothing is augmented. Before the first epoch ends, all has been
decoded; the second reads from memory. Streaming is an epoch of a U-Net whose pictures are read from disk each time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, finish
from benchmarks.pairs import interleave, ratios, require_close

COUNT, SIZE, BATCH, EPOCHS, ENLARGED = 400, 128, 8, 6, 4
MOVES, BRIGHTNESS = 4, 0.2  # as data.transforms has them
OURS, PEER = "ours", "tf.data"
SOURCES = ("JPEG folder", "TFDS")
STREAMED = (
    "data=digit_scenes",
    "model=unet",
    "epochs=3",
    "trainer.limit_train_batches=60",
    "trainer.limit_val_batches=1",
)


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks input", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="how many times each is run")
    finish(measure(repeats=parser.parse_args(argv).repeats))
    return 0


def measure(*, repeats: int) -> list[Figure]:
    """Times of all sources and of streaming.

    Raises:
        Disagreement: the two sides did not read the same.
    """
    from benchmarks.loop import Workload

    figures = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        _write(Path(folder))
        for source in SOURCES:
            commands = {side: [sys.executable, "-m", "benchmarks.input", side, source, folder] for side in (OURS, PEER)}
            runs = interleave(commands, repeats=repeats, label=f"{source}, run")
            for ours, peer in zip(runs[OURS], runs[PEER], strict=True):
                # Pillow and TensorFlow round resized pixels differently.
                require_close(f"{source}: pixels", ours=[ours["pixels"]], peer=[peer["pixels"]], relative=1e-3)
            later = ratios(runs[PEER], runs[OURS], "later_seconds")
            first = [run["first_seconds"] / run["later_seconds"] for run in runs[OURS]]
            figures += [
                Figure(f"input, {source}: epochs from the second, ours / tf.data, speed", later, at_least=1.15),
                Figure(f"input, {source}: the second epoch / the first, speed", first, at_least=8),
            ]
    kinds = {
        kind: Workload((*STREAMED, f"data.in_memory={json.dumps(kind == 'memory')}"), files=False).command()
        for kind in ("memory", "disk")
    }
    runs = interleave(kinds, repeats=repeats, label="streaming, run")
    slower = ratios(runs["memory"], runs["disk"], "steps_per_second")
    return [*figures, Figure("input: U-Net, from disk / from memory, time", slower, at_most=1.3)]


def _write(folder: Path) -> None:
    """The same photographs and masks as files and as a set that is prepared."""
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    from tests.support.prepared import draw_pet, write_set

    examples = []
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(COUNT):
        picture, mask = (
            Image.fromarray(drawn).resize([ENLARGED * side for side in drawn.shape[1::-1]], Image.Resampling.NEAREST)
            for drawn in draw_pet(number)
        )
        picture.save(folder / "images" / f"{number}.jpg", quality=95)
        mask.point(lambda value: value - 1).save(folder / "masks" / f"{number}.png")
        examples.append({"image": str(folder / "images" / f"{number}.jpg"), "mask": np.array(mask)[..., None]})
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "mask": tfds.features.Image(shape=(None, None, 1)),
    }
    write_set(folder, "pictures", features, {"train": examples})


def work(side: str, source: str, folder: Path) -> dict[str, Any]:
    """Read epochs in this process; returns the seconds of the first and of later ones, and the sum of all pixels."""
    if side == OURS:
        return {"pixels": _ours(source, folder, 1, augment=False)[1], **_told(_ours(source, folder, EPOCHS)[0])}
    return {"pixels": _peer(source, folder, 1, augment=False)[1], **_told(_peer(source, folder, EPOCHS)[0])}


def _told(seconds: list[float]) -> dict[str, float]:
    return {"first_seconds": seconds[0], "later_seconds": statistics.median(seconds[1:])}


def _ours(source: str, folder: Path, epochs: int, *, augment: bool = True) -> tuple[list[float], float]:
    """The data of the config, in one graph call an epoch, as the trainer opens it."""
    import tensorflow as tf

    from src import build
    from src.config.compose import compose

    options = {
        "JPEG folder": ["data=image_folder", f"data.path={folder}", "data.test_share=0"],
        "TFDS": [
            *("data=tfds", "data.dataset=pictures", f"data.data_dir={folder}", "data.target_key=mask"),
            *("metric=segmentation", "monitor=val/mean_iou", "mode=max", "data.target_offset=-1", "data.test_share=0"),
            "data.class_names=[pet,background,border]",
        ],
    }[source]
    transforms = {
        "flip": "{_target_: src.data.images.transforms.Flip}",
        "shift": f"{{_target_: src.data.images.transforms.Shift, max_pixels: {MOVES}}}",
        "brightness": f"{{_target_: src.data.images.transforms.Brightness, max_delta: {BRIGHTNESS}}}",
    }
    chosen = [f"data.transforms.{name}={value if augment else 'null'}" for name, value in transforms.items()]
    cfg = compose([*options, "data.val_share=0", *chosen, f"data.image_size={SIZE}", f"batch_size={BATCH}"])
    began = time.perf_counter()
    train = build.build_data(cfg).train

    @tf.function(autograph=False)
    def epoch(cursor: Any) -> Any:
        def body(step: Any, total: Any) -> Any:
            images, masks = train.next(cursor, step)[:2]
            return step + 1, total + tf.reduce_sum(images) + 0 * tf.cast(
                tf.reduce_sum(tf.cast(masks, tf.int32)), tf.float32
            )

        return tf.while_loop(lambda step, _: step < train.steps_per_epoch, body, (0, 0.0))[1]

    seconds, total = [], 0.0
    for number in range(epochs):
        total = float(epoch(train.open(number, 0)))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds, total


def _peer(source: str, folder: Path, epochs: int, *, augment: bool = True) -> tuple[list[float], float]:
    """A pipeline as TensorFlow's guides have it: a parallel map, cache, shuffle, stateful augmentation, prefetch."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    began = time.perf_counter()

    def decoded(picture: Any, mask: Any) -> Any:
        # The default is quicker and half a gray level darker, which would not agree.
        picture = tf.image.decode_jpeg(picture, channels=3, dct_method="INTEGER_ACCURATE")
        return picture, tf.image.decode_png(mask, channels=1)

    def resized(picture: Any, mask: Any) -> Any:
        small = tf.image.resize(picture, (SIZE, SIZE), antialias=True)
        return tf.cast(tf.round(small), tf.uint8), tf.image.resize(mask, (SIZE, SIZE), method="nearest")

    def augmented(picture: Any, mask: Any) -> Any:
        picture = tf.cast(picture, tf.float32) / 255
        if not augment:
            return picture, mask
        if tf.random.uniform(()) < 0.5:
            picture, mask = tf.reverse(picture, [1]), tf.reverse(mask, [1])
        down, right = (tf.random.uniform((), -MOVES, MOVES + 1, tf.int32) for _ in range(2))
        rows = tf.clip_by_value(tf.range(SIZE) + down, 0, SIZE - 1)
        columns = tf.clip_by_value(tf.range(SIZE) + right, 0, SIZE - 1)
        picture, mask = (tf.gather(tf.gather(part, rows), columns, axis=1) for part in (picture, mask))
        factor = 1 + tf.random.uniform((), -BRIGHTNESS, BRIGHTNESS)
        return tf.clip_by_value(picture * factor, 0, 1), mask

    if source == "JPEG folder":
        names = {"images": "jpg", "masks": "png"}
        paths = tuple([str(folder / part / f"{n}.{kind}") for n in range(COUNT)] for part, kind in names.items())
        files = tf.data.Dataset.from_tensor_slices(paths)
        stored = files.map(lambda *both: tuple(map(tf.io.read_file, both)), tf.data.AUTOTUNE)
    else:
        skipped = dict.fromkeys(("image", "mask"), tfds.decode.SkipDecoding())
        stored = tfds.load("pictures", split="train", data_dir=folder, decoders=skipped)
        stored = stored.map(lambda example: (example["image"], example["mask"]))
    examples = stored.map(decoded, tf.data.AUTOTUNE)
    dataset = examples.map(resized, tf.data.AUTOTUNE).cache().shuffle(COUNT).map(augmented, tf.data.AUTOTUNE)
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)

    @tf.function
    def epoch() -> Any:
        total = 0.0
        for images, masks in dataset:
            total += tf.reduce_sum(images) + 0 * tf.cast(tf.reduce_sum(tf.cast(masks, tf.int32)), tf.float32)
        return total

    seconds, total = [], 0.0
    for _ in range(epochs):
        total = float(epoch())
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds, total


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], Path(sys.argv[3]))), flush=True)
