"""A process a job: whatever becomes of one, the others and the parent go on.

pool = Pool(start="fork", slots=[{}, {}])       # two at a time; each slot's environment variables
pool.start("a", function, 1, option=2)
for ended in pool.wait(timeout_seconds=0.2):
    ended.key, ended.exit_code, ended.error     # "a", 0, None
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

Start = Literal["fork", "spawn"]
STARTS = ("fork", "spawn")

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and the exception that left its function."""

    key: Hashable
    pid: int
    exit_code: int
    error: dict[str, str] | None


@dataclass
class _Child:
    process: Any
    messages: Connection
    slot: int


class Pool:
    """Runs functions in child processes, at most one a slot.

    A child is in a process group of its own, so Ctrl-C on the terminal reaches the parent alone. When the parent dies
    it gets SIGTERM. Until its function says otherwise, SIGTERM raises KeyboardInterrupt in it and SIGUSR2 does nothing.

    Args:
        start: `fork` copies this process, with all that it has imported; it must have run no TensorFlow op. `spawn`
            starts afresh.
        slots: the environment variables of each slot's children.
    """

    def __init__(self, *, start: Start, slots: Sequence[dict[str, str]]) -> None:
        self._context: Any = multiprocessing.get_context(start)
        self._slots = list(slots)
        self._children: dict[Hashable, _Child] = {}

    @property
    def free_slots(self) -> int:
        return len(self._slots) - len(self._children)

    def start(self, key: Hashable, function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Run `function(*args, **kwargs)` in a free slot; returns the process's id."""
        slot = min(set(range(len(self._slots))) - {child.slot for child in self._children.values()})
        receiver, sender = self._context.Pipe(duplex=False)
        gc.freeze()  # a collection in the child would copy the pages of all that the parent has
        process = self._context.Process(
            target=_main, args=(sender, os.getpid(), self._slots[slot], function, args, kwargs), daemon=False
        )
        process.start()
        gc.unfreeze()
        sender.close()
        self._children[key] = _Child(process, receiver, slot)
        return process.pid

    def wait(self, *, timeout_seconds: float) -> list[Ended]:
        """Those that have ended; returns as soon as there is one."""
        if not self._children:
            time.sleep(timeout_seconds)
        wait([child.process.sentinel for child in self._children.values()], timeout_seconds)
        ended = []
        for key, child in list(self._children.items()):
            if child.process.exitcode is None:
                continue
            ended.append(Ended(key, child.process.pid, child.process.exitcode, _received(child.messages)))
            child.messages.close()
            child.process.close()
            del self._children[key]
        return ended

    def send(self, key: Hashable, number: int) -> None:
        """Send a signal to a child that may have ended already."""
        if (child := self._children.get(key)) and child.process.exitcode is None:
            os.kill(child.process.pid, number)

    def kill(self) -> None:
        """End all children at once; nothing is saved."""
        for child in self._children.values():
            child.process.kill()
            child.process.join()


def _received(messages: Connection) -> dict[str, str] | None:
    try:
        return messages.recv() if messages.poll() else None
    except (EOFError, OSError):
        return None


def _main(
    messages: Connection,
    parent: int,
    environment: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """The child's life; it ends here, whatever happens."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    code = 1
    try:
        _end_with(parent)
        os.environ.update(environment)
        logging.raiseExceptions = False
        function(*args, **kwargs)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGTERM
    except BaseException as error:
        messages.send({"type": type(error).__name__, "message": str(error)})
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking TensorFlow down in order would take most of a second


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Let SIGTERM come when the parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            raise KeyboardInterrupt
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def log_to(path: str) -> None:
    """Send all that this process writes, a crash's stack included, to the end of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    # Whatever these were, a terminal's or a bar's, they now are the file's.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)
