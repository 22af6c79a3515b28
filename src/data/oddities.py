"""What is odd about images though they can be read, told once for a whole data set.

oddities = Oddities("photos")
oddities.add("images/1.jpg", image=decoded.turn, mask=1, bits=None)
oddities.tell(bit_depth=None)       # logs warnings; DataError where pixels would be as good as black
"""

from __future__ import annotations

import logging

from src.data.image_data import DataError
from src.image_files import FEW_BITS
from src.text import counted, printable

log = logging.getLogger(__name__)

DEPTHS = (8, 10, 12, 14)  # bits that cameras and scanners give, and store in 16


class Oddities:
    """Collects them; `add` may be called by several threads.

    Args:
        where: the data set, for messages.
        apply_exif: whether orientations are obeyed, None or True.
    """

    def __init__(self, where: str, *, apply_exif: bool | None) -> None:
        self._where, self._is_obeyed = where, apply_exif is not False
        self._unlike: dict[str, None] = {}  # images whose masks have another orientation
        self._unknown: dict[str, None] = {}
        self._bits: dict[str, int] = {}
        self._coloured: set[str] = set()  # of those with bits
        self._told: set[str] = set()
        self._is_late = False

    def add(
        self,
        name: str,
        *,
        image: int | None,
        mask: int | None = None,
        bits: int | None = None,
        is_deep_colour: bool = False,
    ) -> None:
        """Note an image that is used.

        Args:
            image, mask: their orientations; a mask's may be left out where there is none.
            bits, is_deep_colour: as `src.image_files.Decoded` has them.
        """
        if bits is not None:
            self._bits[name] = bits
            self._coloured |= {name} if is_deep_colour else set()
        if self._is_obeyed and image is None:
            self._unknown[name] = None
        elif self._is_obeyed and mask is not None and mask != image:
            self._unlike[name] = None
        if self._is_late:
            self._warn()

    def tell(self, *, bit_depth: int | None) -> None:
        """Say what was found; what comes later is said when it comes.

        Raises:
            DataError: no image of 16 bits uses more than FEW_BITS of them, and `bit_depth` does not say so.
        """
        most = max(self._bits.values(), default=16)
        if bit_depth is None and most <= FEW_BITS:
            likely = next(depth for depth in DEPTHS if depth >= most)
            way_out = f"data.bit_depth={likely} takes all values as {likely} bits"
            if self._coloured:  # which data.bit_depth is not for
                way_out = "If they have fewer bits, save them with 8"
            raise DataError(
                f"{counted(len(self._bits), 'image')} in {printable(self._where)} "
                f"(first: {printable(min(self._bits))}) {'has' if len(self._bits) == 1 else 'have'} 16 bits, and the "
                f"brightest value needs {most}: of their high bytes, {max(most - 8, 0)} bits are left. "
                f"{way_out}; data.bit_depth=16 takes the high bytes"
            )
        self._warn()
        self._is_late = True

    def _warn(self) -> None:
        for found, what in (
            (self._unlike, "turned by EXIF data that its mask has not: each is taken as its own data say"),
            (self._unknown, "with EXIF data that cannot be read, or that name no orientation: it is taken as stored"),
        ):
            if found and what not in self._told:
                self._told.add(what)
                others = f" and {len(found) - 1} more" if len(found) > 1 else ""
                log.warning(
                    "%s: %s%s %s; data.apply_exif=false takes all as they are stored",
                    *(printable(self._where), printable(min(found)), others, what),
                )
