"""Prepared folders of TensorFlow Datasets, written by TFDS itself.

write_pets(folder)          # folder/oxford_iiit_pet/4.0.0, by that set's own code
write_labels(folder)        # folder/labels/1.0.0: small gray images of three classes
write_set(folder, "mine", features, {"train": examples})
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.oxford_iiit_pet import oxford_iiit_pet_dataset_builder as pets

from src.data.tfds_folders import quiet

ClassLabel, Image = tfds.features.ClassLabel, tfds.features.Image
BREEDS = (("Abyssinian", 1, 1), ("beagle", 5, 2), ("pug", 26, 2))  # name, label from 1, species from 1


def write_pets(folder: Path, *, train: int = 40, test: int = 12, file_format: str = "tfrecord") -> Path:
    """A miniature of Oxford-IIIT Pet: drawn photographs of odd sizes, prepared by the set's own builder.

    Returns:
        the folder of the version.
    """
    raw = folder / "raw_pets"
    names = {"trainval": _draw(raw, range(train)), "test": _draw(raw, range(train, train + test))}
    for name, lines in names.items():
        (raw / "annotations" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    builder = pets.Builder(data_dir=folder)
    builder._make_download_manager = lambda **_: _Extracted(raw)
    with contextlib.redirect_stdout(io.StringIO()), quiet():
        builder.download_and_prepare(file_format=file_format)
    return Path(builder.data_dir)


def write_set(
    folder: Path,
    name: str,
    features: Mapping[str, Any],
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    version: str = "1.0.0",
    **options: Any,
) -> Path:
    """A set of these examples, in this order.

    Args:
        options: of TFDS's `store_as_tfds_dataset`, as file_format.

    Returns:
        the folder of the version.
    """
    with contextlib.redirect_stdout(io.StringIO()), quiet():
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            features=tfds.features.FeaturesDict(features),
            split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()},
            data_dir=folder,
            disable_shuffling=True,
            **options,
        )
    return Path(builder.data_dir)


def write_labels(folder: Path, *, train: int = 40, test: int = 12, **options: Any) -> Path:
    """Gray images of 8 x 8 pixels, dark, medium and bright ones.

    Returns:
        the folder of the version.
    """
    rng = np.random.default_rng(0)
    features = {"image": Image(shape=(8, 8, 1)), "label": ClassLabel(names=["dark", "medium", "bright"])}
    labels = {"train": np.arange(train) % 3, "test": np.arange(test) % 3}
    splits = {
        name: [{"image": rng.integers(80 * n, 80 * n + 90, (8, 8, 1), np.uint8), "label": int(n)} for n in numbers]
        for name, numbers in labels.items()
    }
    return write_set(folder, "labels", features, splits, **options)


class _Extracted:
    """What the set's archives would have been, on this disk."""

    downloaded_size = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def download_and_extract(self, urls: Mapping[str, str]) -> dict[str, str]:
        return dict.fromkeys(urls, str(self._folder))


def _draw(raw: Path, numbers: Iterable[int]) -> list[str]:
    for name in ("images", "annotations/trimaps", "annotations/xmls"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in numbers:
        breed, label, species = BREEDS[number % len(BREEDS)]
        name = f"{breed}_{number}"
        picture, trimap = draw_pet(number)
        PIL.Image.fromarray(picture).save(raw / "images" / f"{name}.jpg", quality=95)
        PIL.Image.fromarray(trimap).save(raw / "annotations" / "trimaps" / f"{name}.png")
        lines.append(f"{name} {label} {species} 1")
    return lines


def draw_pet(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A furry ellipse on a lawn: uint8 [H, W, 3], and its trimap [H, W]: 1 pet, 2 background, 3 border."""
    rng = np.random.default_rng(number)
    height, width = (int(n) for n in rng.integers(61, 120, 2))
    y, x = np.mgrid[:height, :width]
    centre, radii = rng.uniform(0.35, 0.65, 2), rng.uniform(0.2, 0.35, 2)
    distance = np.hypot((y / height - centre[0]) / radii[0], (x / width - centre[1]) / radii[1])
    trimap = np.select([distance < 0.9, distance < 1.1], [1, 3], 2).astype(np.uint8)
    lawn, fur = np.array([60, 140, 50]), rng.integers(90, 230, 3)
    picture = np.where((distance < 1)[..., None], fur, lawn) + rng.normal(0, 12, (height, width, 1))
    return picture.clip(0, 255).astype(np.uint8), trimap
