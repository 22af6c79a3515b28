"""What a run's own code reads besides its modules: the files that it opens while it is imported and while it runs.

watch(is_users)         # from here on, in this process
read()                  # {"/home/me/mine/means.json"}
unfollowed()            # ["mine.models starts a program"]
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import source_from_cache
from types import FrameType
from typing import Any

from src.common.code import keep_search_path, own_modules
from src.common.files import is_own

# Of the system, and not of an experiment.
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/")
_ELSEWHERE = {
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.posix_spawn": "starts a program",
    "socket.connect": "reads from the network",
}
_read: dict[str, None] = {}
_written: set[str] = set()
_elsewhere: dict[str, None] = {}
_modules_before: frozenset[str] | None = None
_is_users: Callable[[str], bool] = bool
_is_users_file: dict[str, bool | None] = {}


def watch(is_users: Callable[[str], bool]) -> None:
    """Begin to notice what the run's own code opens; safe to call again.

    Args:
        is_users: whether a module of this name is the user's. What the project's own modules read is what the config
            names, and counts by itself.
    """
    global _modules_before, _is_users
    if _modules_before is None:
        _modules_before = frozenset(sys.modules)
        keep_search_path()
        sys.addaudithook(_on_audit_event)
    _is_users = is_users


def read() -> set[str]:
    """What has been read so far and not been written by this process; of a folder, `folder/*` is that it was listed."""
    return {path for path in _read if path not in _written and os.path.exists(path.removesuffix("*"))}


def written() -> set[str]:
    """What has been opened to be written so far."""
    return set(_written)


def modules() -> dict[str, str]:
    """The modules of the user's that have been imported since, and their files."""
    new = {name: path for name, path in own_modules().items() if name not in (_modules_before or ())}
    return {name: path for name, path in new.items() if path not in _written and _is_users(name)}


def unfollowed() -> list[str]:
    """What the run's own code did that no fingerprint can follow."""
    return list(_elsewhere)


def _on_audit_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir", "os.rename") or event in _ELSEWHERE:
        with suppress(Exception):  # whoever opens a file must not fail for this
            _note(event, arguments)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _ELSEWHERE:
        if caller := _caller(own_imports=False):
            _elsewhere.setdefault(f"{_module_of(caller)} {_ELSEWHERE[event]}")
        return
    given = arguments[event == "os.rename"]
    if isinstance(given, int):
        return
    path = os.path.abspath(os.fsdecode(given))
    if event == "os.rename" or (event == "open" and _writes(*arguments[1:3])):
        _written.add(path)
    elif path not in _read and not path.startswith(_SYSTEM) and is_own(path):
        if event == "open" and _caller(own_imports=True):
            _read.setdefault(source_from_cache(path) if path.endswith(".pyc") else path)
        elif event != "open" and _caller(own_imports=False):
            _read.setdefault(os.path.join(path, "*"))


def _writes(mode: str | None, flags: int) -> bool:
    return bool(set(mode) & set("wax+")) if mode else (flags & os.O_ACCMODE) != os.O_RDONLY


def _caller(*, own_imports: bool) -> FrameType | None:
    """The user's function that the call came from; None where one of the project's is nearer."""
    frame: FrameType | None = sys._getframe(3)
    last = frame
    while frame:
        last, name = frame, frame.f_code.co_filename
        if not own_imports and name.startswith("<frozen importlib"):
            return None
        if name not in _is_users_file:
            nobodys = not is_own(name) or name in _written
            _is_users_file[name] = None if nobodys else _is_users(_module_of(frame))
        if (users := _is_users_file[name]) is not None:
            return frame if users else None
        frame = frame.f_back
    # A thread that somebody's pool has begun, and calls nobody's functions but NumPy's or the like.
    return None if threading.current_thread() is threading.main_thread() else last


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", frame.f_code.co_filename))
