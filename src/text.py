"""Words, numbers and tables for people.

last_names(["optimizer.learning_rate", "seed"])      # ["learning_rate", "seed"]
duration(185)                                        # "3 min 5 s"
print_table(rows, sys.stdout)                        # rows: a table() with columns and rows added
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

BARS = "▁▂▃▄▅▆▇█"
PLAIN_WIDTH = 10_000  # a file's or a pipe's lines are as long as they need to be


def table() -> Table:
    """A table without lines, to add columns and rows to."""
    return Table(box=None, pad_edge=False, header_style="bold")


def print_table(table: Table, stream: TextIO) -> None:
    """Print a table as wide as it needs to be: a terminal breaks a line where it must, and paths can be copied."""
    console = Console(file=stream, width=PLAIN_WIDTH)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():  # without the spaces that pad the last column
        print(line.rstrip(), file=stream)


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
    """A number of many digits as six of them."""
    try:
        return f"{float(value):.6g}" if len(value) > 8 else value
    except ValueError:
        return value


def size(count: float) -> str:
    """A number of bytes for eyes, in powers of 1000: 812 B, 1.2 MB, 46 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while round(count) >= 1000 and len(units) > 1:
        count, _ = count / 1000, units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 9.95 and units[0] != "B" else f"{count:.0f} {units[0]}"


def measured(value: float) -> str:
    """A loss or metric for eyes: 0.1234, and 3.2e-05 where that would be 0.0000."""
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 or not math.isfinite(value) else f"{value:.1e}"


def counted(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
