"""A process a job: whatever becomes of one, the others and the parent go on.

    pool = Pool(slots=[{}, {}])             # two at a time; each slot's environment variables
    pool.start("a", function, 1, option=2)
    for ended in pool.wait(timeout_seconds=0.2):
        ended.key, ended.exit_code, ended.error     # "a", 0, None

The parent forks a server, which imports what all jobs need and forks a child for each. So nothing is imported twice,
the parent may have threads, and it is none of TensorFlow's business.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from src.errors import place

Start = Literal["fork", "spawn"]
STARTS = ("fork", "spawn")

SERVER_POLL_SECONDS = 0.5  # for children whose own children keep their pipe open
FAREWELL_SECONDS = 15.0  # for children whose server has died
MESSAGE_LENGTH = 2_000  # of an error, of up to 12 bytes each; a pipe holds 64 KiB

CHILD_GC_THRESHOLDS = (50_000, 20, 20)  # graphs are made of many objects, of which none is garbage

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and the exception that left its function."""

    key: Hashable
    pid: int
    exit_code: int
    error: dict[str, str] | None


class Pool:
    """Runs functions in child processes, at most one a slot.

    A child is in a process group of its own, so Ctrl-C on the terminal reaches the parent alone. When the parent dies
    it gets SIGTERM. Until its function says otherwise, SIGTERM raises KeyboardInterrupt in it, and SIGINT and SIGUSR2
    do nothing.

    Args:
        slots: the environment variables of each slot's children.
        start: `fork` copies the server, with all that it has imported; `spawn` starts each child afresh.
        prepare: called in the server before it forks.
    """

    def __init__(
        self,
        *,
        slots: Sequence[dict[str, str]],
        start: Start = "fork",
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._slots, self._start, self._prepare = list(slots), start, prepare
        self._server: Server | None = None
        self._running: dict[Hashable, tuple[int, int]] = {}  # key: slot, process id
        self._buried: list[Ended] = []

    @property
    def free_slots(self) -> int:
        return len(self._slots) - len(self._running)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def start(self, key: Hashable, function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Run `function(*args, **kwargs)` in a free slot; returns the process's id."""
        slot = min(set(range(len(self._slots))) - {slot for slot, _ in self._running.values()})
        work = pickle.dumps((function, args, kwargs))
        for last in (False, True):
            if self._server is None:
                self._server = Server(self._start, self._prepare)
            try:
                pid = self._server.start(key, self._slots[slot], work)
            except (EOFError, OSError) as error:
                self._buried += self._bury()
                if last:
                    raise RuntimeError("the process that jobs are forked from dies before it can fork one") from error
            else:
                self._running[key] = slot, pid
                return pid
        raise AssertionError

    def wait(self, *, timeout_seconds: float) -> list[Ended]:
        """Those that have ended; returns as soon as there is one."""
        found, self._buried = self._buried, []
        if self._server and self._running:
            try:
                found += self._server.ended(0.0 if found else timeout_seconds)
            except (EOFError, OSError):
                found += self._bury()
        elif not found:
            time.sleep(timeout_seconds)
        for ended in found:
            self._running.pop(ended.key, None)
        return found

    def send(self, key: Hashable, number: int) -> None:
        """Send a signal to a child that may have ended already."""
        if self._server and key in self._running:
            self._server.signal(key, number)

    def close(self) -> None:
        """End all children that still run, at once; nothing is saved."""
        if self._server:
            self._server.close()
            self._server = None

    def _bury(self) -> list[Ended]:
        """The server has died, so its children have got SIGTERM: wait for them."""
        assert self._server is not None
        deadline = time.monotonic() + FAREWELL_SECONDS
        for _, pid in self._running.values():
            while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
                time.sleep(0.05)
        known = self._server.heard()
        self._server.close()
        self._server = None
        error = {"type": "ProcessDied", "message": "the process that jobs are forked from was killed"}
        keys = {ended.key for ended in known}
        lost = {key: pid for key, (_, pid) in self._running.items() if key not in keys}
        self._running.clear()
        return [*known, *(Ended(key, pid, -signal.SIGTERM, error) for key, pid in lost.items())]


class Server:
    """The process that children are forked from, as its parent sees it.

    Args:
        start: see Pool.
        prepare: called in the server before the first fork.
    """

    def __init__(self, start: Start = "fork", prepare: Callable[[], None] | None = None) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self._started: dict[Hashable, int] = {}
        self._ended: list[Ended] = []
        sys.stdout.flush()
        sys.stderr.flush()
        parent, self.pid = os.getpid(), os.fork()
        if self.pid == 0:
            try:
                self._connection.close()
                _serve(parent, theirs, start, prepare)
            except ConnectionError:  # the parent is dead
                pass
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()

    def start(self, key: Hashable, environment: dict[str, str], work: bytes) -> int:
        """Have a child forked; returns its process id."""
        self._connection.send(("start", key, environment, work))
        while key not in self._started:
            self._hear()
        return self._started.pop(key)

    def ended(self, timeout_seconds: float) -> list[Ended]:
        """Children that have ended since the last call; waits for one."""
        while self._connection.poll(0 if self._ended else timeout_seconds):
            self._hear()
        ended, self._ended = self._ended, []
        return ended

    def heard(self) -> list[Ended]:
        """Children that are known to have ended, when the server is dead."""
        with suppress(EOFError, OSError):
            while self._connection.poll():
                self._hear()
        return self._ended

    def signal(self, key: Hashable, number: int) -> None:
        """Send a signal to a child, unless it has ended."""
        with suppress(OSError):  # it is dead, and its children have been told
            self._connection.send(("signal", key, int(number)))

    def close(self) -> None:
        """End the server, and its children at once."""
        with suppress(OSError):  # it is gone
            self._connection.send(("close",))
        self._connection.close()
        os.waitpid(self.pid, 0)

    def _hear(self) -> None:
        what, *values = self._connection.recv()
        if what == "started":
            self._started[values[0]] = values[1]
        else:
            self._ended.append(Ended(*values))


def _serve(parent: int, connection: Connection, start: Start, prepare: Callable[[], None] | None) -> None:
    """The server's life."""
    os.setpgrp()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.SIG_DFL)
    _die_with(parent, signal.SIGKILL)  # while it imports, it hears of nothing
    if prepare:
        prepare()
    gc.freeze()  # a collection in a child would copy the pages of all that is here
    gc.set_threshold(*CHILD_GC_THRESHOLDS)
    children: dict[Hashable, tuple[int, Connection]] = {}
    while True:
        ready = wait([connection, *(messages for _, messages in children.values())], SERVER_POLL_SECONDS)
        before = len(children)
        for key, (pid, messages) in list(children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                if status:
                    _kill_group(pid)  # what it has started does not outlive it
                connection.send(("ended", key, pid, os.waitstatus_to_exitcode(status), _error_in(messages)))
                messages.close()
                del children[key]
        if connection not in ready:
            if ready and len(children) == before:  # a pipe is closed a moment before its process can be waited for
                time.sleep(0.01)
            continue
        try:
            what, *values = connection.recv()
        except EOFError:  # the parent is dead; this server's end tells the children
            return
        if what == "start":
            key, environment, work = values
            messages, sender = multiprocessing.Pipe(duplex=False)
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                for end in (connection, messages, *(messages for _, messages in children.values())):
                    end.close()
                _live(sender, server, environment, work, afresh=start == "spawn")
            sender.close()
            children[key] = pid, messages
            connection.send(("started", key, pid))
        elif what == "signal" and values[0] in children:
            os.kill(children[values[0]][0], values[1])
        elif what == "close":
            for pid, _ in children.values():
                os.kill(pid, signal.SIGKILL)
                _kill_group(pid)
            return


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _error_in(messages: Connection) -> dict[str, str] | None:
    try:
        return json.loads(messages.recv_bytes()) if messages.poll() else None
    except (EOFError, OSError):
        return None


def _live(messages: Connection, server: int, environment: dict[str, str], work: bytes, *, afresh: bool) -> None:
    """The child's life; it ends here, whatever happens."""
    code = 1
    try:
        os.setpgrp()
        nothing = os.open(os.devnull, os.O_RDONLY)  # whoever reads from the terminal here would be stopped
        os.dup2(nothing, 0)
        os.close(nothing)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        _die_with(server, signal.SIGTERM)
        os.environ.update(environment)
        if afresh:
            with tempfile.TemporaryFile() as file:
                file.write(work)
                file.seek(0)
                for descriptor in (file.fileno(), messages.fileno()):
                    os.set_inheritable(descriptor, True)
                arguments = map(str, (file.fileno(), messages.fileno(), server))
                os.execv(sys.executable, [sys.executable, "-m", "src.sweeps.processes", *arguments])
        code = _work(messages, work)
    finally:
        os._exit(code)  # taking TensorFlow down in order would take most of a second


def _work(messages: Connection, work: bytes) -> int:
    code = 1
    try:
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
        said = {"type": type(error).__name__, "message": str(error)} | (
            {"line": line} if (line := place(error)) else {}
        )
        messages.send_bytes(json.dumps({key: text[:MESSAGE_LENGTH] for key, text in said.items()}).encode())
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _interrupt(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its grandparent may say so, and then die
    raise KeyboardInterrupt


def _die_with(parent: int, number: int) -> None:
    """Get a signal when the parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), number)

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


def _live_afresh(work: int, messages: int, server: int) -> None:
    """What a spawned child begins with: file descriptors of its work and for its message, and the server's id."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        _die_with(server, signal.SIGTERM)
        with open(work, "rb") as file:
            pickled = file.read()
        code = _work(Connection(messages, readable=False), pickled)
    finally:
        os._exit(code)


if __name__ == "__main__":
    from src.sweeps import processes  # under the name that pickles know

    processes._live_afresh(*map(int, sys.argv[1:]))
