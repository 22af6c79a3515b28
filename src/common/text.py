"""Words, numbers and tables for people.

last_names(["optimizer.learning_rate", "seed"])      # ["learning_rate", "seed"]
duration(185)                                        # "3 min 5 s"
table_lines([["job", "lr"], ["1", "0.1"]], right=["lr"])     # ["job   lr", "1    0.1"]
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import zip_longest
from typing import TextIO, TypeVar

from rich.cells import cell_len

Value = TypeVar("Value", bound=Hashable)

BARS = "▁▂▃▄▅▆▇█"


def table_lines(rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> list[str]:
    """The lines of a table: each column as wide as its widest cell, so that paths can be copied.

    Args:
        rows: of cells, all of one length; the first is the header.
        right: the headers of columns that are aligned to the right, as numbers are.
    """
    rows = [[" ".join(cell.splitlines()) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    is_right = [header in right for header in rows[0]]

    def padded(cell: str, width: int, is_right: bool) -> str:
        space = " " * (width - cell_len(cell))
        return space + cell if is_right else cell + space

    return ["  ".join(map(padded, row, widths, is_right)).rstrip() for row in rows]


def print_table(
    rows: Sequence[Sequence[str]], stream: TextIO, *, right: Collection[str] = (), styles: Sequence[str] = ()
) -> None:
    """Print a table; see `table_lines`. A terminal shows the header in bold, and breaks a line where it must.

    Args:
        styles: rich's style of each row below the header; none leaves all of them plain.
    """
    from rich.console import Console  # these two take 30 ms
    from rich.text import Text

    lines = zip_longest(table_lines(rows, right=right), ["bold", *styles], fillvalue="")
    Console(file=stream).print(Text("\n").join(Text(*line) for line in lines), soft_wrap=True)


def of_one_class(metric: str) -> bool:
    """Whether a metric is of a single class, such as `val/iou/cat`, and tables have no room for it."""
    return metric.count("/") > 1


def duration(seconds: float) -> str:
    """A time for eyes: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def last_names(keys: Sequence[str]) -> list[str]:
    """The keys' last parts, where these tell them apart."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return [key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in keys]


def short(value: str) -> str:
    """A number of many digits as six of them; a whole one as it is, as seeds are told apart by the last."""
    try:
        return f"{float(value):.6g}" if len(value) > 8 and not value.isdecimal() else value
    except ValueError:
        return value


def told_apart(values: Sequence[Value], text: Callable[[Value], str]) -> list[str]:
    """A text of each value, and the whole of those that would have the text of another value."""
    texts = {value: text(value) for value in values}
    count = Counter(texts.values())
    return [texts[value] if count[texts[value]] == 1 else str(value) for value in values]


def size(count: float) -> str:
    """A number of bytes for eyes, in powers of 1000: 812 B, 1.2 MB, 46 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while round(count) >= 1000 and len(units) > 1:
        count, _ = count / 1000, units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 9.95 and units[0] != "B" else f"{count:.0f} {units[0]}"


def measured(value: float) -> str:
    """A loss or metric for eyes: 0.1234, and 3.2e-05 where that would be 0.0000."""
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 or not math.isfinite(value) else f"{value:.1e}"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_of(names: Sequence[str], most: int) -> str:
    """`a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, between the lowest and the highest; a space for one that is not finite."""
    finite = [value for value in values if math.isfinite(value)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    top = len(BARS) - 1
    return "".join(BARS[round((v - low) / (span or 1) * top)] if math.isfinite(v) else " " for v in values)


def printable(text: object) -> str:
    r"""Text that any stream takes; bytes of a file's name that are no UTF-8 appear as \udcff."""
    return str(text).encode(errors="backslashreplace").decode()


def same_name(name: str) -> str:
    """What is equal for all spellings of a file's name in Unicode: `é` is one character or, from a Mac, two."""
    return unicodedata.normalize("NFC", name)
