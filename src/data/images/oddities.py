"""What is odd about images that can be read, reported once for a whole data set.

oddities = Oddities("photos", reading)
oddities.add("images/1.jpg", decoded, mask_turn=1)
oddities.report()       # logs warnings; DataError where the pixels would be as good as black
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from src.common.text import plural, printable
from src.data.data import DataError
from src.data.images.files import FEW_BITS, Decoded, Reading

if TYPE_CHECKING:
    from src.data.images.folder_check import Facts

log = logging.getLogger(__name__)

DEPTHS = (8, 10, 12, 14)  # bits that cameras and scanners give, and store in 16
OTHER_TURN = "turned by EXIF data that its mask does not have: each file is read as its own data say"
NO_TURN = "with EXIF data that cannot be read or that name no orientation: read as stored"


class Oddities:
    """Collects them; `add` may be called by several threads.

    Args:
        where: the data set, for messages.
        reading: how its files are read.
    """

    def __init__(self, where: str, reading: Reading) -> None:
        self._where, self._reading = printable(where), reading
        self._turns: dict[str, set[str]] = {OTHER_TURN: set(), NO_TURN: set()}  # names of images
        self._deep: dict[str, tuple[int, bool]] = {}  # bits and is_deep_colour of images of 16 bits
        self._reported: set[str] | None = None

    def add(self, name: str, image: Decoded | Facts, *, mask_turn: int | None = None) -> None:
        """Note an image that is used; `mask_turn` may be left out where there is no mask."""
        if image.bits is not None:
            self._deep[name] = image.bits, image.is_deep_colour
        if self._reading.is_upright and image.turn is None:
            self._turns[NO_TURN].add(name)
        elif self._reading.is_upright and mask_turn not in (None, image.turn):
            self._turns[OTHER_TURN].add(name)
        if self._reported is not None:
            self._warn(self._reported)

    def report(self) -> None:
        """Report what was found; from now on, what is new is reported when it is added.

        Raises:
            DataError: no image of 16 bits uses more than FEW_BITS of them, and data.bit_depth is not given.
        """
        most = max((bits for bits, _ in self._deep.values()), default=16)
        if self._reading.bit_depth is None and most <= FEW_BITS:
            likely = next(depth for depth in DEPTHS if depth >= most)
            way_out = f"data.bit_depth={likely} takes all values as {likely} bits"
            if any(is_deep_colour for _, is_deep_colour in self._deep.values()):  # which data.bit_depth is not for
                way_out = "If they have fewer bits, save them with 8"
            raise DataError(
                f"{plural(len(self._deep), 'image')} in {self._where} (first: {printable(min(self._deep))}) "
                f"{'has' if len(self._deep) == 1 else 'have'} 16 bits, and the brightest value needs {most}: of their "
                f"high bytes, {max(most - 8, 0)} bits are left. {way_out}; data.bit_depth=16 takes the high bytes"
            )
        self._reported = set()
        self._warn(self._reported)

    def _warn(self, reported: set[str]) -> None:
        for what, names in self._turns.items():
            if names and what not in reported:
                reported.add(what)
                others = f" and {len(names) - 1} more" if len(names) > 1 else ""
                log.warning(
                    "%s: %s%s %s; data.apply_exif=false takes all as they are stored",
                    *(self._where, printable(min(names)), others, what),
                )
