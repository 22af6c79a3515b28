"""Runs in processes forked from one that has imported TensorFlow, and has run none of its ops.

prepare()
child = start(["data=digits", "hydra.run.dir=/tmp/run"], output=Path("/tmp/run.txt"))
ask(compare, run, straight)         # what compare returns, which may run ops, as that is in a child
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from benchmarks.pairs import BenchmarkError
from src.sweeps.preload import preload

_FORK = multiprocessing.get_context("fork")


def prepare() -> None:
    """Import what a run needs."""
    import src.train  # noqa: F401

    preload()


def start(overrides: list[str], *, output: Path, before: Callable[[], object] | None = None) -> ForkProcess:
    """Begin what `python -m src.train <overrides>` does; `before` is called first, in the child."""
    child = _FORK.Process(target=_train, args=(overrides, output, before))
    child.start()
    return child


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, called in a child.

    Raises:
        BenchmarkError: it raised, as it says on standard error.
    """
    reader, writer = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=lambda: writer.send(function(*args)))
    child.start()
    writer.close()
    try:
        return reader.recv()
    except EOFError:
        raise BenchmarkError(f"{function.__name__} failed") from None
    finally:
        child.join()


def _train(overrides: list[str], output: Path, before: Callable[[], object] | None) -> None:
    from src.train import main

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    if before:
        before()
    sys.argv = ["src.train", *overrides]
    main()
