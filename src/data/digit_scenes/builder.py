"""The digit scenes as a TensorFlow Datasets builder, prepared on first use without the network."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from src.common.pictures import png
from src.data.digit_scenes.scenes import CLASS_NAMES, SCENE_SIZE, SPLIT_SIZES, compose_scene
from src.data.tfds_folders import damaged, prepared

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


RECORD_OVERHEAD = 16  # bytes that a TFRecord file spends on each record beside its content


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
            image, mask, _ = compose_scene(split, index)
            # Encoded here: TFDS's own encoder runs TensorFlow, which fixes its threads and must not be forked then.
            files = {"image": png(image), "segmentation_mask": png(mask[..., 0])}
            yield index, {name: io.BytesIO(content) for name, content in files.items()}


def prepare(data_dir: str | os.PathLike[str] | None = None) -> tfds.core.DatasetBuilder:
    """The builder of the scenes, which are made first (some seconds, no network) where they are missing.

    Runs no TensorFlow op: threads can still be set, processes forked.

    Args:
        data_dir: TFDS's data folder: by default TFDS_DATA_DIR, or else `~/tensorflow_datasets`.

    Raises:
        DataError: the scenes cannot be written, or are damaged.
        ValueError: the folder is not one of this machine's file system.
    """
    dataset = f"{DigitScenes.name}:{DigitScenes.VERSION}"
    builder = prepared(dataset, data_dir=data_dir, command="python -m src.data data=digit_scenes")
    for split in builder.info.splits.values():  # which a power cut may have left short
        (path,) = map(Path, split.filepaths)
        size = path.stat().st_size if path.is_file() else 0
        if size != split.num_bytes + RECORD_OVERHEAD * split.num_examples:
            raise damaged(path, f"it has {size:,} bytes")
    return builder
