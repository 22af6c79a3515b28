"""The parts of a PNG that its pixels and its orientation need, since Pillow fails on others.

without_metadata(Path("photos/1.png").read_bytes())
"""

from __future__ import annotations

import zlib

from PIL import PngImagePlugin

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # keywords of texts that may hold it
PNG_TEXT_BYTES = 1 << 20  # the longest text that is looked at, packed
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26  # unpacked


def without_metadata(content: bytes) -> bytes:
    """A PNG without what is neither pixels nor their orientation: it may be broken, or longer than Pillow takes.

    Raises:
        ValueError: it ends too early, or a checksum of what is needed is wrong.
    """
    if not content.startswith(PNG_START):
        return content
    view, place, name = memoryview(content), len(PNG_START), b""
    parts: dict[int | bytes, memoryview] = {0: view[:place]}
    while name != b"IEND":
        length = int.from_bytes(view[place : place + 4])
        chunk = view[place : place + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError("broken PNG file: it is truncated")
        name, is_whole = bytes(chunk[4:8]), zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        is_of_pixels = name[:1].isupper() or name == b"tRNS"
        if is_of_pixels and not is_whole:
            raise ValueError("broken PNG file: a checksum is wrong")
        if is_of_pixels:
            parts[place] = chunk
        elif is_whole and (keyword := _tells_orientation(name, chunk[8:-4])):
            parts.pop(keyword, None)  # of several the last one counts
            parts[keyword] = chunk
        place += 12 + length
    return b"".join(parts.values())


def _tells_orientation(name: bytes, data: memoryview) -> bytes | None:
    """The keyword under which a PNG chunk may give an orientation that Pillow reads; None if it gives none."""
    if name == b"eXIf":
        return name
    keyword = bytes(data[: max(map(len, PNG_ORIENTATION)) + 1]).partition(b"\0")[0]
    is_read = name in (b"tEXt", b"zTXt", b"iTXt") and keyword in PNG_ORIENTATION and len(data) <= PNG_TEXT_BYTES
    return keyword if is_read else None
