"""What a user can type about a run.

train_command(record)               # python -m src.train data=digits model=cnn
print_next(next_commands(directory), sys.stderr)   # evaluate, predict, compare, tensorboard
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from src.runs.record_schema import RecordValues

SMALL_STEP_MILLISECONDS = 3.0
_TOLD_ONCE = re.compile(r"[+~]*(parent\.|(rerun|stale|wait|dry_run)(=|$))")
_PLAIN = re.compile(r"(\.{0,2}/)*[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "nan", "inf")


def python() -> str:
    """How the user can type this Python: its environment may not be the active one."""
    found = shutil.which("python")
    same = found and Path(found).absolute() == Path(sys.executable).absolute()
    return "python" if same else os.path.relpath(sys.executable)


def by_python(command: str) -> str:
    """The same command by `python`, whatever this one is called: what is written is read elsewhere."""
    _, *words = shlex.split(command)
    return shlex.join(["python", *words])


def train_command(directory: Path, values: RecordValues) -> str:
    """The command whose run this is, or was where it has been set aside; it starts nothing afresh.

    What it did once, as `rerun=true`, is left out, and what a branch fills in.
    """
    words = [_here(text) for text in values["flags"]] + given_options(values)
    usual = Path("outputs", values["name"])
    if f"-{values['id']}" not in directory.name or os.path.abspath(directory.parent) != os.path.abspath(usual):
        words.append(f"hydra.run.dir={quoted(os.path.relpath(directory))}")  # it was given a directory of its own
    return shlex.join([python(), "-m", "src.train", *words])


def given_options(values: RecordValues) -> list[str]:
    """What was typed, less what was done once, as `rerun=true`, and what a branch fills in."""
    return [text for text in values["overrides"] if not _TOLD_ONCE.match(text)]


def _here(flag: str) -> str:
    name, _, value = flag.partition("=")
    return f"{name}={os.path.relpath(value)}" if name == "--config-dir" else flag


def quoted(text: str) -> str:
    """A text as the value of an override, in quotes where Hydra would read it as anything else."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", escaped).replace("'", "\\'")
    return f"'{escaped}'"


def next_commands(directory: Path) -> list[str]:
    """What to do with a completed run."""
    run = os.path.relpath(directory)
    return [
        shlex.join([python(), "-m", "src.evaluate", run]),
        shlex.join([python(), "-m", "src.predict", run]) + " FILE...",
        *look_commands(directory.parent),
    ]


def look_commands(folder: Path) -> list[str]:
    """What to do with the runs of a folder."""
    runs = os.path.relpath(folder)
    board = "tensorboard" if python() == "python" else os.path.join(os.path.dirname(python()), "tensorboard")
    return [shlex.join([python(), "-m", "src.compare", runs]), shlex.join([board, "--logdir", runs])]


def threads_advice(values: RecordValues, history: Sequence[Mapping[str, Any]]) -> str:
    """What to give where steps are so small that sharing them out costs more than it brings; empty elsewhere.

    The first epoch, which compiles, does not count; validation and files do.
    """
    threads = values["environment"]["threads"] or 1
    if threads == 1 or len(history) < 2:
        return ""
    first, last = history[0], history[-1]
    milliseconds = 1e3 * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    if milliseconds >= SMALL_STEP_MILLISECONDS:
        return ""
    return (
        f"a step took {milliseconds:.1f} ms on {threads} threads, and steps this small are usually faster on one: "
        "trainer.threads=1, which is a run of its own (python -m benchmarks threads compares them here)"
    )


def print_next(commands: Sequence[str], stream: TextIO) -> None:
    """What to type next, quietly on a terminal."""
    from rich.console import Console  # these two take 30 ms
    from rich.text import Text

    lines = "\n      ".join(commands)
    Console(file=stream).print(Text(f"next: {lines}", style="dim"), soft_wrap=True)
