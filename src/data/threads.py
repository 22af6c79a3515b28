"""Many items read at once, by a thread a core, with a bar on a terminal.

with in_threads(look, paths, "checking photos") as results:
    facts = dict(zip(paths, results, strict=True))
splits = in_memory(splits, "photos", max_memory_gib=4.0)
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.common.machine import available_cores

if TYPE_CHECKING:  # imports TensorFlow
    from src.data.limit import Examples

AT_ONCE = 4096  # items that wait for a thread


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[Iterable[Any]], Iterable[Any]]]:
    """Gives a function that passes results through; on a terminal a bar shows how many have come of the total."""
    console = Console(file=sys.stderr)
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (total and console.is_terminal)) as bar:
        yield lambda results: bar.track(results, total=total, description=what)


@contextmanager
def in_threads(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> Iterator[Iterable[Any]]:
    """The function's results in order, made on all cores, with a progress bar.

    When the block ends, for any reason, no more items are started.
    """
    pool = ThreadPoolExecutor(available_cores())
    try:
        with progress_bar(what, len(items)) as shown:
            parts = (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
            yield shown(itertools.chain.from_iterable(pool.map(function, part) for part in parts))
    finally:
        pool.shutdown(cancel_futures=True)


def in_memory(
    splits: Mapping[str, Sequence[Any]], what: str, *, max_memory_gib: float
) -> tuple[dict[str, Examples], float]:
    """The splits as arrays, or as they are where these would be too large; and how many bytes those have.

    Args:
        what: the data set, for the bar.
    """
    example = next(iter(splits.values()))[0]
    held = sum(map(len, splits.values())) * sum(part.nbytes for part in example)
    if held > max_memory_gib * 2**30:
        return dict(splits), held
    return {name: _arrays(examples, f"reading {what}, {name}") for name, examples in splits.items()}, held


def _arrays(examples: Sequence[Any], what: str) -> tuple[np.ndarray, np.ndarray]:
    image, target = examples[0]
    images = np.empty((len(examples), *image.shape), image.dtype)
    targets = np.empty((len(examples), *target.shape), target.dtype)

    def read(index: int) -> None:
        images[index], targets[index] = examples[index]

    with in_threads(read, range(len(examples)), what) as results:
        list(results)
    return images, targets
