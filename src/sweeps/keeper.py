"""One job's process on a node of a cluster: what stands between the cluster and the run.

A keeper, an actor of Ray's, holds the job's resources. It starts `python -m src.sweeps.keeper`, which has imported
nothing that computes; this forks the job's process, as a sweep on one machine does. A keeper that Ray ends takes its
child with it: the process between, and not the job's, which then saves and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from src.common.machine import this_process
from src.sweeps.processes import PARENT_POLL_SECONDS, ProcessPool


class Keeper:
    """Starts one job's process and tells what becomes of it."""

    async def start(self, directory: str, work: bytes, environment: Mapping[str, str]) -> dict[str, Any]:
        """Begin.

        Args:
            directory: to start in.
            work: a pickled function, its arguments, and its keyword arguments.
            environment: of the command, where this node has not its own. What may change bits is the command's alone.

        Returns:
            the process, as a run's record has it.
        """
        from src.runs.environment import variables

        own = {name: value for name, value in os.environ.items() if name not in variables(os.environ)}
        self._between = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", Keeper.__module__, str(os.getpid())),
            stdin=PIPE,
            stdout=PIPE,
            cwd=directory,
            env={**environment, **own},
            start_new_session=True,
        )
        assert self._between.stdin and self._between.stdout
        self._between.stdin.write(work)
        self._between.stdin.close()
        self._process: dict[str, Any] = json.loads(await self._between.stdout.readline())
        return self._process

    async def wait(self, started: Any) -> tuple[int, dict[str, str] | None]:
        """The exit code and the error, as of `Ended`; `started` is what `start` returned, since calls may overtake."""
        assert self._between.stdout
        ended = await self._between.stdout.readline()
        await self._between.wait()
        exit_code, error = json.loads(ended) if ended else (-signal.SIGKILL, None)
        return exit_code, error

    async def send(self, number: int) -> None:
        """Send a signal to the job's process, which may have ended already."""
        with suppress(ProcessLookupError):
            os.kill(self._process["pid"], number)


def look_around(offered: str) -> dict[str, Any]:
    """What a node says of itself: its `host`, whether Ray runs with a token there (`auth`), its `environment`, and the
    `problem` with the folder that `check_shared` offers, or None."""
    from src.runs.environment import environment
    from src.sweeps.shared_folder import look

    auth = os.environ.get("RAY_AUTH_MODE")
    return {"host": socket.gethostname(), "auth": auth, "environment": environment(), "problem": look(offered)}


def main(keeper: int) -> None:
    """Fork the job's process; a line on standard output says which it is, another how it has ended."""
    answers, work = os.dup(1), sys.stdin.buffer.read()
    os.dup2(2, 1)
    pool = ProcessPool(slots=[{}])
    pool.start("job", _run, answers, work)
    while not (ended := pool.wait(timeout_seconds=PARENT_POLL_SECONDS)):
        if os.getppid() != keeper:
            os._exit(1)
    _say(answers, [ended[0].exit_code, ended[0].error])


def _run(answers: int, work: bytes) -> None:
    """The job's process from its first line to its last."""
    _say(answers, this_process())
    os.close(answers)
    function, args, kwargs = pickle.loads(work)
    function(*args, **kwargs)


def _say(answers: int, value: Any) -> None:
    os.write(answers, json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
