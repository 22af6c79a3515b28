"""The digit scenes as a TensorFlow Datasets builder, prepared on first use without the network."""

import io
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from src.data.digit_scenes.digits import load_digits
from src.data.digit_scenes.scenes import CLASS_NAMES, SCENE_SIZE, SPLIT_SIZES, compose_scene
from src.data.tfds_folders import data_root, locked, quiet

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Colour scenes of 48x48 pixels for semantic segmentation: each holds 2 to 4 real handwritten digits, enlarged,
turned, brightly coloured and placed on a smooth dim background with slight noise. The mask is digit + 1 on
ink and 0 elsewhere (11 classes). The scenes of train, val and test use disjoint sets of digits.
"""

_CITATION = """\
@misc{alpaydin1998optical,
  author    = {Alpaydin, E. and Kaynak, C.},
  title     = {Optical Recognition of Handwritten Digits},
  year      = {1998},
  publisher = {UCI Machine Learning Repository},
  doi       = {10.24432/C50P49},
}
"""

_UNFINISHED = "incomplete."  # how the names of TFDS's own half-written folders begin
_RECORD_OVERHEAD = 16  # bytes a TFRecord file spends on each record beside its content


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes as `image` uint8 [48, 48, 3], 0..255, and `segmentation_mask` uint8 [48, 48, 1], 0..10.

    Splits: train 2000, val 400, test 400, stored in the order of `compose_scene`'s index. The class names are
    `info.features["segmentation_mask"].names`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(SCENE_SIZE, SCENE_SIZE, 3), dtype=np.uint8, encoding_format="png"
                    ),
                    "segmentation_mask": tfds.features.LabeledImage(
                        labels=list(CLASS_NAMES),
                        shape=(SCENE_SIZE, SCENE_SIZE, 1),
                        dtype=np.uint8,
                        encoding_format="png",
                    ),
                }
            ),
            supervised_keys=("image", "segmentation_mask"),
            disable_shuffling=True,  # the scenes are random already; their order on disk is then their index
            homepage="https://doi.org/10.24432/C50P49",
            citation=_CITATION,
            license="CC BY 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in SPLIT_SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, io.BytesIO]]]:
        for index in range(SPLIT_SIZES[split]):
            scene = compose_scene(split, index)
            yield index, {"image": _png(scene.image), "segmentation_mask": _png(scene.mask)}

    # TFDS prints these two straight to standard output; `prepare` logs one line in their place.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def prepare(data_dir: str | os.PathLike[str] | None = None) -> tfds.core.DatasetBuilder:
    """Return the builder of the scenes, writing them first (some seconds, no network) where they are missing.

    `data_dir` is TFDS's data folder: by default TFDS_DATA_DIR, or else `~/tensorflow_datasets`. Any number of
    processes may call this at once: one writes and the others wait for it. What a killed process left behind,
    or a set that is damaged, is made anew. Runs no TensorFlow op: threads can still be set, processes forked.

    Raises:
        OSError: the scenes are missing and the folder cannot be written or is full.
        ValueError: the folder is not one of this machine's file system.
    """
    root = data_root(data_dir, DigitScenes.name)
    builder = _stored(root)
    if builder is not None:  # no lock, so that a prepared read-only folder will do
        return builder
    load_digits()  # a digits file that is missing is no fault of the data folder
    try:
        with locked(_version_folder(root).parent):
            return _stored(root) or _write(root)
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        raise OSError(
            f"cannot prepare the {DigitScenes.name} data set in the data folder {root}: {error}. Free space "
            "there, or set data.data_dir or the environment variable TFDS_DATA_DIR to a writable folder."
        ) from error


def _is_of_the_disk(error: BaseException | None) -> bool:
    # TensorFlow has errors of its own for a full disk, and TFDS wraps them into a RuntimeError.
    while error is not None and not isinstance(error, OSError | tf.errors.OpError):
        error = error.__cause__
    return error is not None


def _version_folder(root: Path) -> Path:
    return root / DigitScenes.name / str(DigitScenes.VERSION)


def _stored(root: Path) -> DigitScenes | None:
    """Return the builder of a complete stored set, or None. A power cut may leave short files in place."""
    folder = _version_folder(root)
    if not (folder / "dataset_info.json").is_file():
        return None
    try:
        with quiet():
            builder = DigitScenes(data_dir=root)
            if not builder.is_prepared() or set(builder.info.splits) != set(SPLIT_SIZES):
                return None
            for split, count in SPLIT_SIZES.items():
                info = builder.info.splits[split]
                size = sum(os.path.getsize(path) for path in info.filepaths)
                if info.num_examples != count or size != info.num_bytes + _RECORD_OVERHEAD * count:
                    return None
    except Exception:  # TFDS raises whatever its parsers raise on a damaged file
        _log.debug("unreadable data set in %s", folder, exc_info=True)
        return None
    return builder


def _write(root: Path) -> DigitScenes:
    """Write the set; the caller holds the lock."""
    folder = _version_folder(root)
    _log.info("Preparing data set %s (%d scenes) in %s", DigitScenes.name, sum(SPLIT_SIZES.values()), folder)
    # The lock is ours, so nobody is writing: these are the remains of killed processes and of a damaged set.
    for remains in [*folder.parent.glob(f"{_UNFINISHED}*"), folder]:
        if remains.exists():
            shutil.rmtree(remains)
    # TFDS makes a folder for downloads even where there are none. It writes aside and renames at the end.
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder.parent) as scratch, quiet():
        builder = DigitScenes(data_dir=root)
        builder.download_and_prepare(
            download_dir=scratch,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format="tfrecord",
        )
    complete = _stored(root)
    if complete is None:
        raise OSError("the files written are not complete")
    return complete


def _png(pixels: np.ndarray) -> io.BytesIO:
    """Encode uint8 [h, w, 1 or 3] as PNG. TFDS's own encoder runs TensorFlow, which fixes its threads."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = np.pad(pixels.reshape(height, width * channels), ((0, 0), (1, 0)))  # each row begins with its filter: none
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    file.seek(0)
    return file
