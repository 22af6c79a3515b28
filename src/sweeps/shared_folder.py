"""Whether the machines of a cluster see one folder: its locks hold, its renames replace, its files are seen at once.

check_shared(Path("outputs/digits/sweeps"), ask)    # `ask` has `look` called by each of them
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from src.common.errors import ConfigError
from src.common.files import replace
from src.common.lock import hold, holder_of

SEEN_SECONDS = 10.0
POLL_SECONDS = 0.1
OLD, NEW = "old", "new"  # what a file says before and after another has taken its name


def check_shared(folder: Path, ask: Callable[[str], Mapping[str, str | None]]) -> None:
    """Try what runs on several machines rely on.

    Args:
        folder: where they will write; made if it is missing.
        ask: calls `look` with the path that it is given, in a process on each machine, and returns their answers by
            the machine's name.

    Raises:
        ConfigError: something does not hold; with the machine and what it needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".shared-", dir=folder) as made:
        offered = Path(made).resolve()
        offered.chmod(0o777)  # a machine may know this user by another number
        with hold(offered / "lock", what="the trial lock"):
            for text in (OLD, NEW):
                replace(offered / "here", text)
            answers = ask(str(offered))
        for machine, problem in answers.items():
            if problem:
                raise ConfigError(f"{machine} cannot share {folder.resolve()} with this machine: {problem}")
        if not _soon(lambda: [path.read_text() for path in offered.glob("from-*")].count(NEW) >= len(answers)):
            raise ConfigError(
                f"{folder.resolve()}: what {', '.join(answers)} wrote there is not seen here within "
                f"{SEEN_SECONDS:g} s; mount it with less caching (NFS: lookupcache=none,actimeo=1)"
            )


def look(offered: str) -> str | None:
    """From another process: what does not hold in the folder that `check_shared` has made, or None."""
    folder = Path(offered)
    if not _soon(lambda: (folder / "here").read_text() == NEW):
        return (
            f"it does not see a file written there {SEEN_SECONDS:g} s ago. Type the command in a folder that all "
            "machines have at the same path, and mount it with little caching"
        )
    try:
        if not holder_of(folder / "lock"):
            return (
                "a lock held there is not seen, so two machines could write one run; mount it with locks for all "
                "machines (NFS: without nolock and local_lock; Lustre: flock)"
            )
        for text in (OLD, NEW):
            replace(folder / f"from-{socket.gethostname()}-{os.getpid()}", text)
    except OSError as error:
        return f"{error}"
    return None


def _soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds now or within SEEN_SECONDS; files that are not there do not."""
    deadline = time.monotonic() + SEEN_SECONDS
    while True:
        try:
            if holds():
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
