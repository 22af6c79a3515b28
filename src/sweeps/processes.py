"""A process a job: however one ends, the others and the parent are unaffected. The pool of this machine.

pool = ProcessPool(slots=[{}, {}])      # two at a time; each slot's environment variables
pool.start("a", function, 1, option=2)
for ended in pool.wait(timeout_seconds=0.2):
    ended.key, ended.exit_code, ended.error     # "a", 0, None
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from src.common.command import GC_THRESHOLDS
from src.common.errors import place
from src.common.machine import this_process
from src.sweeps.pool import Ended

StartMethod = Literal["fork", "spawn"]

PARENT_POLL_SECONDS = 0.5
MESSAGE_LENGTH = 2_000  # of an error, of up to 12 bytes each; a pipe holds 64 KiB

# Blocked while a child starts, so that none meets the parent's handlers or, on the terminal, the default ones.
BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


@dataclass(frozen=True)
class _Child:
    slot: int
    process: BaseProcess
    errors: Connection


class ProcessPool:
    """Runs functions in child processes, at most one a slot; a `src.sweeps.pool.Pool`.

    A child is in a process group of its own, so Ctrl-C on the terminal reaches the parent alone. When the parent dies
    it gets SIGTERM. Until its function says otherwise, SIGTERM raises KeyboardInterrupt in it, and SIGINT and SIGUSR2
    do nothing.

    Args:
        slots: the environment variables of each slot's children.
        start: `fork` copies this process, with all that it has imported; `spawn` starts a fresh interpreter.
        prepare: called before each fork; imports what children need, and raises where this process cannot be forked.
    """

    def __init__(
        self,
        *,
        slots: Sequence[dict[str, str]],
        start: StartMethod = "fork",
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._slots = list(slots)
        self._context = get_context("fork") if start == "fork" else get_context("spawn")
        self._prepare = prepare if start == "fork" else None
        self._running: dict[Hashable, _Child] = {}

    @property
    def free_slots(self) -> int:
        """How many more processes could start."""
        return len(self._slots) - len(self._running)

    def start(self, key: Hashable, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Run `function(*args, **kwargs)` in a free slot."""
        slot = min(set(range(len(self._slots))) - {child.slot for child in self._running.values()})
        if self._prepare:
            self._prepare()
        errors, sender = self._context.Pipe(duplex=False)
        work = pickle.dumps((function, args, kwargs))
        process = self._context.Process(target=_run, args=(os.getpid(), sender, self._slots[slot], work))
        if isinstance(self._context, SpawnContext):
            resource_tracker.ensure_running()  # which a spawned child needs, and whose start unblocks signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        try:
            process.start()
            self._running[key] = _Child(slot, process, errors)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            sender.close()

    def wait(self, *, timeout_seconds: float) -> list[Ended]:
        """Processes that have ended since the last call; returns as soon as there is one."""
        if not self._running:
            time.sleep(timeout_seconds)
            return []
        ready = wait([child.process.sentinel for child in self._running.values()], timeout_seconds)
        # A child's own children may keep its pipe open, so all are looked at, whichever pipe is ready.
        keys = [key for key, child in self._running.items() if child.process.exitcode is not None]
        if ready and not keys:  # a pipe is closed a moment before its process can be waited for
            time.sleep(0.01)
        return [self._reap(key) for key in keys]

    def send(self, key: Hashable, number: int) -> None:
        """Send a signal to a process, which may have ended already."""
        if (child := self._running.get(key)) and child.process.exitcode is None:
            os.kill(_pid(child), number)

    def is_waiting(self, key: Hashable) -> bool:
        """Whether a process has not begun for want of a place; here each begins at once."""
        return False

    def close(self) -> None:
        """Kill all processes that still run; nothing is saved."""
        for child in self._running.values():
            child.process.kill()
            _kill_group(_pid(child))
        for key in list(self._running):
            self._running[key].process.join()
            self._reap(key)

    def _reap(self, key: Hashable) -> Ended:
        child = self._running.pop(key)
        pid, exit_code = _pid(child), child.process.exitcode
        assert exit_code is not None
        if exit_code:
            _kill_group(pid)  # what it has started does not outlive it
        error = None
        with child.errors, suppress(EOFError, OSError):
            error = child.errors.recv() if child.errors.poll() else None
        child.process.close()
        return Ended(key, {**this_process(), "pid": pid}, exit_code, error)


def _pid(child: _Child) -> int:
    assert child.process.pid is not None
    return child.process.pid


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _run(parent: int, errors: Connection, environment: dict[str, str], work: bytes) -> None:
    """A child from its first line to its last."""
    code = 1
    try:
        os.setpgrp()
        nothing = os.open(os.devnull, os.O_RDONLY)  # a background process that reads from the terminal is stopped
        os.dup2(nothing, 0)
        os.close(nothing)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()
        multiprocessing.set_start_method(None, force=True)  # a spawned child has its parent's
        os.environ.update(environment)
        gc.set_threshold(*GC_THRESHOLDS)
        code = _call(errors, work)
    finally:
        os._exit(code)  # taking TensorFlow down in order would take most of a second


def _call(errors: Connection, work: bytes) -> int:
    """Call the function, and return the exit code."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
        logging.raiseExceptions = False
        function, args, kwargs = pickle.loads(work)
        function(*args, **kwargs)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        code = code & 0xFF or int(code != 0)
    except KeyboardInterrupt:
        code = 128 + signal.SIGTERM
    except BaseException as error:
        description = {"type": type(error).__name__, "message": str(error)}
        if line := place(error):
            description["line"] = line
        errors.send({name: text[:MESSAGE_LENGTH] for name, text in description.items()})
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _interrupt(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent may send it, and then die
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Send this process SIGTERM when its parent has died; of the systems, only Linux has a signal for that."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
