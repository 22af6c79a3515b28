"""What data sets of image files take, a user's folders as well as sets of TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from src.common.ranges import Count, Flag, Positive, Share, enforce_ranges
from src.data.data import Limit
from src.data.images.files import BitDepth, ImageSize, Reading, height_and_width
from src.data.images.image_data import ImageData
from src.data.images.resizing import Fit


@enforce_ranges
@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Options that all of them share.

    Args:
        batch_size, seed, shuffle, transforms, limit: as `ImageData`'s.
        image_size: resize to this height and width, or [height, width]: images bilinear and antialiased, masks to the
            nearest pixel. Needed where images have several sizes.
        resize: `pad` and `crop` keep the aspect, which None does not. `pad` leaves black edges, in masks edges of
            ignore_label; `crop` leaves out what is too long, at both ends.
        class_names: in the order of their numbers.
        ignore_label: a target that counts nowhere.
        val_share, test_share: of the examples, where no split is of this name; 0 takes none.
        apply_exif: False takes images and masks as they are stored, whatever orientation their EXIF data name.
        bit_depth: gray images of 16 bits have values of so many bits, 8 to 16, and are brought to 8; by default the
            high byte is taken.
        max_memory_gib: above this, images are read again whenever they are needed; the batches are the same.
    """

    batch_size: Count
    seed: int
    image_size: ImageSize | None = None
    resize: Fit | None = None
    class_names: Sequence[str] | None = None
    ignore_label: int | None = None
    val_share: Share = 0.1
    test_share: Share = 0.1
    apply_exif: Flag | None = None
    bit_depth: BitDepth | None = None
    max_memory_gib: Positive = 4.0
    shuffle: bool = True
    transforms: Mapping[str, Callable | None] = field(default_factory=dict)
    limit: Limit | None = None

    def reading(self, channels: int) -> Reading:
        """How files are read; of images so many channels."""
        shape = None if self.image_size is None else height_and_width(self.image_size)
        return Reading(channels, shape, self.apply_exif, self.bit_depth, self.resize, self.ignore_label)

    def image_data(self, **splits_and_classes: Any) -> ImageData:
        """Splits as batches; what is given beside them are ImageData's arguments."""
        return ImageData(
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            transforms=self.transforms,
            **splits_and_classes,
        )
