"""Where jobs run: the seam between a sweep, which knows the states of its jobs, and the processes that compute them.

`src.sweeps.processes.ProcessPool` runs them on this machine; a cluster's pool has the same members. A sweep asks
for nothing else: not for a process's id when it starts, which a cluster knows only once it has found a node.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        process: its `pid` and `host`, as a run's record has them; empty where it has not begun.
        exit_code: negative for a signal.
        error: `type` and `message` of the exception that left its function, and the user's `line` that raised it.
        lost: its machine was lost, or whatever the cluster keeps there to run it: no fault of the function's.
    """

    key: Hashable
    process: dict[str, Any]
    exit_code: int
    error: dict[str, str] | None
    lost: bool = False


class Pool(Protocol):
    """Runs functions in processes of their own, at most one a slot."""

    @property
    def free_slots(self) -> int:
        """How many more processes could start."""

    def start(self, key: Hashable, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Run `function(*args, **kwargs)` in a free slot."""

    def wait(self, *, timeout_seconds: float) -> list[Ended]:
        """Processes that have ended since the last call; returns as soon as there is one."""

    def send(self, key: Hashable, number: int) -> None:
        """Send a signal to a process, which may have ended already."""

    def is_waiting(self, key: Hashable) -> bool:
        """Whether a process has not begun, since there is no place for it yet."""

    def close(self) -> None:
        """Kill all processes that still run."""
