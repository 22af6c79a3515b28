"""What all commands have in common: their streams, Ctrl-C, errors, exit codes, and how they end.

    if __name__ == "__main__":
        run_command(main)           # main(argv) -> exit code, or None for 0

A command that raises ConfigError exits with 2, another error with 1, one that signal n ends with 128 + n.
HYDRA_FULL_ERROR=1 shows traces.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from src.common.errors import ConfigError, described

EXIT_FAILED, EXIT_WRONG = 1, 2
GC_THRESHOLDS = (50_000, 20, 20)  # configs, sources and graphs are many objects, of which none is garbage


class Terminated(KeyboardInterrupt):
    """As Ctrl-C, by another signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_command(
    command: Callable[[list[str]], int | None], *, interrupted: Callable[[], str] = lambda: "interrupted"
) -> NoReturn:
    """Run a command on the process's arguments, and end the process; see `exit_code`."""
    gc.set_threshold(*GC_THRESHOLDS)
    set_up_streams()
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is not the end of training
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    code = exit_code(command, [_with_home(word) for word in sys.argv[1:]], interrupted=interrupted)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # nothing is left but to print the rest
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if isinstance(sys.stdout, OutputStream) and sys.stdout.error and not code:
        print(f"error: standard output cannot be written: {sys.stdout.error}", file=sys.stderr, flush=True)
        code = EXIT_FAILED
    if "tensorflow" in sys.modules:
        os._exit(code)  # all is written; taking TensorFlow down in order would take most of a second
    sys.exit(code)


def exit_code(
    command: Callable[[list[str]], int | None],
    argv: list[str],
    *,
    interrupted: Callable[[], str] = lambda: "interrupted",
) -> int:
    """Run a command; print what it raises.

    Args:
        interrupted: what to say after Ctrl-C or another signal.
    """
    show_trace = bool(os.environ.get("HYDRA_FULL_ERROR"))  # which a command may set
    try:
        return command(argv) or 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return EXIT_FAILED
        return ended.code or 0
    except KeyboardInterrupt as stopped:
        print("".join([interrupted(), *getattr(stopped, "__notes__", [])]), file=sys.stderr)
        return 128 + (stopped.number if isinstance(stopped, Terminated) else signal.SIGINT)
    except Exception as error:
        if show_trace:
            traceback.print_exc()
        print(f"error: {described(error)}", file=sys.stderr)
        return EXIT_WRONG if isinstance(error, ConfigError) else EXIT_FAILED


def _with_home(word: str) -> str:
    """`key=~/a` with the home folder, as shells have it where a word begins so."""
    key, sign, value = word.partition("=")
    return key + sign + re.sub(r"(?:(?<=,)|^)~(?=[/,]|$)", lambda _: os.path.expanduser("~"), value)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Terminated(number)


class OutputStream(io.TextIOWrapper):
    """Standard output or error: what cannot be encoded is escaped, and what nobody reads any more is dropped.

    Whoever reads may leave, as `| head` does, or a disk be full; what a command does must not hang on it.
    """

    error: str | None = None  # other than that the reader has left

    def write(self, text: str) -> int:
        with self._dropping():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            super().flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
                self.error = error.strerror
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def set_up_streams() -> None:
    """Make standard output and error such streams, unless they have been replaced by something else."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when the process began; see src/__init__.py
            stream = open(number, "w", closefd=False)  # noqa: SIM115
        if type(stream) is not io.TextIOWrapper:
            continue
        options = (stream.encoding, "backslashreplace", None, stream.line_buffering, stream.write_through)
        own = OutputStream(stream.detach(), *options)
        setattr(sys, name, own)
        setattr(sys, f"__{name}__", own)
