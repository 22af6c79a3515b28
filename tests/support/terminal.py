"""A command on a real terminal, and what stands on its screen.

shown = on_terminal([sys.executable, "-m", "src.train"], cwd=folder, columns=100, rows=30)
shown.lines, shown.stdout, shown.returncode
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONTROL = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|[^\x1b]")


@dataclass(frozen=True)
class Shown:
    """What became of a command: its terminal's bytes, as written and as lines, and its piped standard output."""

    written: str
    stdout: str
    returncode: int
    columns: int

    @property
    def lines(self) -> list[str]:
        """All lines, those that have scrolled away too; knows the controls that redraw lines, and no others."""
        lines, row, column = [""], 0, 0
        for match in CONTROL.finditer(self.written):
            private, count, letter = match.groups()
            if letter is None and match[0] == "\r":
                column = 0
            elif letter is None and (match[0] == "\n" or column == self.columns):
                row, column = row + 1, column if match[0] == "\n" else 0
                lines += [""] * (row + 1 - len(lines))
            if letter is None and match[0] not in "\r\n":
                lines[row] = f"{lines[row]:<{column}}"[:column] + match[0] + lines[row][column + 1 :]
                column += 1
            elif letter == "A":
                row -= int(count or 1)
            elif letter == "K":
                assert count == "2", match[0]
                lines[row] = ""
            else:
                assert letter in (None, "m") or private, f"{match[0]!r} is not known here"
        return [line.rstrip() for line in lines]

    @property
    def cursor_shown(self) -> bool:
        """Whether the cursor was left to be seen."""
        return self.written.rfind("\x1b[?25h") >= self.written.rfind("\x1b[?25l")


def on_terminal(
    command: Sequence[str],
    *,
    cwd: Path,
    columns: int = 100,
    rows: int = 30,
    watch: Callable[[str, subprocess.Popen], None] = lambda written, process: None,
    **environment: str,
) -> Shown:
    """Run a command whose standard error and input are a terminal, and whose standard output is a pipe.

    Args:
        watch: called with what has been written so far, and the process, which it may send signals.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        env.pop(name, None)
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, start_new_session=True
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
            watch(written.decode(errors="replace"), process)
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.stdout is not None
    stdout = process.stdout.read().decode()
    return Shown(written.decode(), stdout, process.wait(60), columns)
