"""A Ray cluster on this machine, of raylets that are ended by their process ids: no other cluster here is touched."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.helpers import PYTHONPATH

START_SECONDS = 120


class RayCluster:
    """Nodes of one core each, in a folder of its own; `environment` is what a command needs to join."""

    def __init__(self, *, token: str | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets allow no long paths
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment |= {"PYTHONPATH": PYTHONPATH, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        if token:
            file = self._folder / "token"
            file.write_text(token)
            self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.raylets: list[int] = []  # of the nodes, in the order in which they joined
        port = self.address.rpartition(":")[2]
        self._add("--head", f"--port={port}", f"--temp-dir={self._folder}", "--include-dashboard=false")

    def join(self) -> None:
        """Add a node."""
        self._add(f"--address={self.address}")

    def lose(self, raylet: int) -> None:
        """As a machine that is gone: all that runs below this raylet is killed with it, and can save nothing."""
        self.raylets.remove(raylet)
        for pid in (raylet, *_below(raylet)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all processes, and remove the folder."""
        for pid in self._processes():
            for each in (*_below(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--num-cpus=1"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        known = set(self._processes("raylet"))
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (raylet,) = set(self._processes("raylet")) - known
        self.raylets.append(raylet)

    def _processes(self, program: str = "") -> list[int]:
        """Those that name this cluster's folder, and run this program."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                if any(str(self._folder) in word for word in words) and words[0].endswith(program):
                    found.append(int(path.parent.name))
        return found


def _below(pid: int) -> Iterator[int]:
    """A process's children, theirs, and so on."""
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                yield from _below(child)
                yield child


def wait_until(holds, *, seconds: float = 120.0) -> float:
    """Wait for something; returns how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def new_token() -> str:
    return secrets.token_hex(32)
