"""What a user can type about a run.

train_command(record)               # python -m src.train data=digits model=cnn
print_next(next_commands(directory), sys.stderr)   # evaluate, predict, compare, tensorboard
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text


def python() -> str:
    """How the user can type this Python: its environment may not be the active one."""
    found = shutil.which("python")
    same = found and Path(found).absolute() == Path(sys.executable).absolute()
    return "python" if same else os.path.relpath(sys.executable)


def train_command(directory: Path, values: dict[str, Any]) -> str:
    """The command whose run this is, or was where it has been set aside."""
    overrides = [text for text in values["overrides"] if not text.lstrip("+").startswith("parent.")]
    if f"-{values['id']}" not in directory.name:  # it was given a directory of its own
        overrides.append(f"hydra.run.dir={os.path.relpath(directory)}")
    return shlex.join([python(), "-m", "src.train", *overrides])


def next_commands(directory: Path) -> list[str]:
    """What to do with a completed run."""
    run = os.path.relpath(directory)
    return [
        shlex.join([python(), "-m", "src.evaluate", run]),
        shlex.join([python(), "-m", "src.predict", run]) + " IMAGE...",
        *look_commands(directory.parent),
    ]


def look_commands(folder: Path) -> list[str]:
    """What to do with the runs of a folder."""
    runs = os.path.relpath(folder)
    return [shlex.join([python(), "-m", "src.compare", runs]), shlex.join(["tensorboard", "--logdir", runs])]


def print_next(commands: Sequence[str], stream: TextIO) -> None:
    """What to type next, quietly on a terminal."""
    lines = "\n      ".join(commands)
    Console(file=stream).print(Text(f"next: {lines}", style="dim"), soft_wrap=True)
