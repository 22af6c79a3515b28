"""A sweep that is typed in a folder and runs beside the test: what it prints, and what its runs' records say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from src.runs.record import Record


class SweepCommand:
    """`python -m src.train --multirun`, started.

    Args:
        words: after it.
        environment: whole.
    """

    def __init__(self, folder: Path, *words: str, environment: dict[str, str]) -> None:
        self.folder, number = folder, len(list(folder.glob("stdout*")))
        self._stdout, self._stderr = folder / f"stdout{number}", folder / f"stderr{number}"
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "src.train", "--multirun", *words],
                **{"cwd": folder, "env": environment, "stdout": stdout, "stderr": stderr},
            )

    def end(self, seconds: float = 400) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(seconds)

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def directory(self, seed: int) -> Path:
        """Of the run of this seed, once it is there."""
        found = list(self.folder.glob(f"outputs/digits/mlp-*-s{seed}-*"))
        return found[0] if found else self.folder / "none yet"

    def record(self, seed: int) -> Any:
        """What is recorded of the run of this seed."""
        return Record(self.directory(seed)).read() or {"status": None, "epoch": 0, "process": None}
