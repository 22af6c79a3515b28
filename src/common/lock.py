"""One writer a run: a lock that dies with its process.

with hold(Path("outputs/digits/.locks/1a2b3c4d"), wait=False):
    ...
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Whoever looks whether a lock is held has it for that moment.
GLANCES, GLANCE_SECONDS = 3, 0.02

_held: dict[Path, int] = {}  # descriptors, by path


class Locked(RuntimeError):
    """Another process is writing this run."""


def _leave_to_parent() -> None:
    """A forked child does not hold its parent's locks, nor keep them when the parent is gone."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def hold(
    path: Path, *, wait: bool | None = None, what: str | None = None, option: str = "hydra.run.dir"
) -> Iterator[None]:
    """Hold the lock of a run; taking it again in the same process changes nothing.

    Args:
        path: the lock's file; made, and left behind when the lock is released.
        wait: wait for whoever holds it; None where the command has no option to.
        what: is locked, for messages; `run <the file's name>` by default.
        option: the key that names another place, for messages.

    Raises:
        Locked: it is held and `wait` is not true; names the process.
        OSError: the file cannot be made, as where nothing may be written.
    """
    path = path.resolve()
    if path in _held:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OSError(
            f"{what or f'run {path.name}'} cannot be locked, and so nothing written: {path} ({error.strerror}). "
            f"Make room, make its folder writable, or give another one with {option}=..."
        ) from error
    try:
        _lock(descriptor, what or f"run {path.name}", path, wait)
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except BaseException:
        os.close(descriptor)
        raise
    _held[path] = descriptor
    try:
        yield
    finally:
        if _held.pop(path, None) is not None:  # else this is a forked child
            os.close(descriptor)


def holder_of(path: Path) -> str | None:
    """The process that holds this lock now, as `process 12 on host`; None where none does.

    Raises:
        OSError: the lock may not be read, so nothing is known.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _described(path)
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, what: str, path: Path, wait: bool | None) -> None:
    for _ in range(GLANCES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(GLANCE_SECONDS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _described(path)
        if not wait:
            way_out = "type the command again when that has ended" if wait is None else "wait for it with wait=true"
            raise Locked(f"{what} is in use by {holder}; {way_out}") from None
        print(f"waiting for {what}, which is in use by {holder}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _described(path: Path) -> str:
    try:
        values = json.loads(path.read_text())
        return f"process {values['pid']} on {values['host']}"
    except (ValueError, TypeError, KeyError, OSError):
        return "an unknown process"
