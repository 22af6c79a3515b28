"""A pool whose processes run on the nodes of a Ray cluster, each beside a keeper, an actor that holds its resources.

pool = RayPool(slots=8, resources={"num_cpus": 1}, environment={})      # after ray.init
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack, redirect_stdout
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from src.sweeps.keeper import Keeper
from src.sweeps.pool import Ended


class RayPool:
    """Runs functions in processes on a cluster; a `src.sweeps.pool.Pool`.

    They start in this process's working directory. One whose node is lost has `lost` in its end; where the command
    dies, its keepers do, and their processes save and end.

    Args:
        slots: how many at a time; those that find no resources wait for them.
        resources: of each, as options of an actor of Ray's.
        environment: variables, which those that a node has itself go before.
    """

    def __init__(self, *, slots: int, resources: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        # It answers while it waits for its process, and Ray itself never starts it again.
        self._keeper = ray.remote(max_restarts=0, max_task_retries=0, **resources)(Keeper)
        self._slots, self._environment = slots, dict(environment)
        self._keepers: dict[Hashable, Any] = {}
        self._begun: dict[Hashable, dict[str, Any]] = {}  # the processes that run
        self._dismissed: dict[Hashable, int] = {}  # before they had begun, by a signal
        self._answers: dict[Any, tuple[Hashable, bool]] = {}  # to come; whether it is the end of a process
        self._redirection = ExitStack()  # Ray prints what it notices, such as a lost node, where results belong
        self._redirection.enter_context(redirect_stdout(sys.stderr))

    @property
    def free_slots(self) -> int:
        """How many more processes could start."""
        return self._slots - len(self._keepers)

    def start(self, key: Hashable, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Run `function(*args, **kwargs)` where its resources are, or as soon as they are."""
        keeper = self._keepers[key] = self._keeper.remote()
        started = keeper.start.remote(os.getcwd(), pickle.dumps((function, args, kwargs)), self._environment)
        self._answers[started] = key, False
        self._answers[keeper.wait.remote(started)] = key, True

    def wait(self, *, timeout_seconds: float) -> list[Ended]:
        """Processes that have ended since the last call; returns as soon as there is one."""
        if not self._answers:
            time.sleep(timeout_seconds)
            return []
        ready, _ = ray.wait(list(self._answers), timeout=timeout_seconds)
        if ready:
            ready, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0)
        found = []
        for key, is_end, answer in [(*self._answers.pop(reference), _answer(reference)) for reference in ready]:
            if is_end:
                found.append(self._end(key, answer))
            elif not isinstance(answer, RayError):
                self._begun[key] = answer
        return found

    def send(self, key: Hashable, number: int) -> None:
        """Send a signal to a process, which may have ended already; one that has not begun never will."""
        if key in self._begun:
            self._keepers[key].send.remote(int(number))
        elif key in self._keepers and number != signal.SIGUSR2:  # which ends none that has not come to listen
            self._dismissed[key] = number
            ray.kill(self._keepers[key])

    def is_waiting(self, key: Hashable) -> bool:
        """Whether a process has not begun, since there is no place for it yet."""
        return key not in self._begun

    def close(self) -> None:
        """Kill all processes that still run, but for what they do to save."""
        for keeper in self._keepers.values():
            ray.kill(keeper)
        self._keepers.clear()
        self._answers.clear()
        self._redirection.close()

    def _end(self, key: Hashable, answer: Any) -> Ended:
        process, dismissed = self._begun.pop(key, {}), self._dismissed.pop(key, None)
        ray.kill(self._keepers.pop(key))
        if dismissed is not None:
            return Ended(key, process, -dismissed, None)
        if isinstance(answer, RayTaskError):  # it could not start the process
            return Ended(key, process, 1, {"type": type(answer.cause).__name__, "message": str(answer.cause)})
        if isinstance(answer, RayError):
            error = {"type": type(answer).__name__, "message": str(answer)}
            return Ended(key, process, 1, error, lost=isinstance(answer, ray.exceptions.RayActorError))
        return Ended(key, process, *answer)


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:
        return error
