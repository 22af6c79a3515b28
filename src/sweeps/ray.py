"""hydra/launcher=ray: a sweep whose jobs run on the nodes of a Ray cluster.

The command runs on a machine of the cluster, in a folder that all of them share at the same path.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.common.code import ROOT
from src.common.errors import ConfigError, one_line
from src.common.extras import install_command
from src.runs.environment import environment, environment_changes
from src.sweeps.keeper import look_around
from src.sweeps.runner import PoolOptions, PoolRunner
from src.sweeps.shared_folder import check_shared

if TYPE_CHECKING:
    from src.sweeps.ray_pool import RayPool

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # for all nodes to start a process and look at the folder
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # an actor's option, and what nodes call it
NOT_SENT = ("RAY_", "SLURM_", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")  # variables that are this machine's, or secret
TOKEN = (
    "a cluster without a token lets anybody in its network run programs. Make a token (ray get-auth-token --generate), "
    "copy its file to all machines, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=<file> before `ray start` on "
    "each of them and before this command"
)


@dataclass(frozen=True)
class RayOptions(PoolOptions):
    """Of hydra/launcher=ray; see there."""

    address: str = "auto"
    resources: Mapping[str, Any] = field(default_factory=lambda: {"num_cpus": 1})

    def check(self) -> None:
        """Raise ConfigError where a value is none of those allowed."""
        super().check()
        if not isinstance(self.address, str) or "://" in self.address:
            raise ConfigError(
                f"hydra.launcher.address is {self.address!r}; it must be auto or the head's <host>:<port>, and the "
                "command typed on a machine of the cluster"
            )
        if not isinstance(self.resources, Mapping) or not set(self.resources) <= {*RESOURCES, "resources"}:
            names = ", ".join([*RESOURCES, "resources"])
            raise ConfigError(f"hydra.launcher.resources is {self.resources!r}; it must be a mapping with keys {names}")
        if not isinstance(own := self.resources.get("resources") or {}, Mapping):
            raise ConfigError(f"hydra.launcher.resources.resources is {own!r}; it must be a mapping of numbers")
        for name, amount in self.needs.items():
            if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
                raise ConfigError(f"hydra.launcher.resources: {name} is {amount!r}; it must be a number at least 0")

    @property
    def needs(self) -> dict[str, float]:
        """What a job holds, by the names that nodes have for it."""
        amounts = {name: self.resources.get(option) for option, name in RESOURCES.items()}
        amounts |= self.resources.get("resources") or {}
        return {name: amount for name, amount in amounts.items() if amount is not None}


class RayRunner(PoolRunner):
    """Runs the jobs of a sweep on a cluster, which it looks at when it is first asked for."""

    def __init__(self, config: DictConfig, options: RayOptions) -> None:
        super().__init__(config, options)
        self._options = options

    @property
    def n_jobs(self) -> int:
        if self._options.n_jobs:
            return self._options.n_jobs
        needs = {name: amount for name, amount in self._options.needs.items() if amount}
        fit = [
            min((int(has.get(n, 0) / a + 1e-9) for n, a in needs.items()), default=1) for has in self._nodes.values()
        ]
        if not sum(fit):
            print(f"no node has {needs} now: jobs wait for one that has", file=sys.stderr)
        return sum(fit) or 1

    def make_pool(self, *, folder: Path, slots: int) -> tuple[RayPool, int]:
        self._check_nodes(folder)
        from src.sweeps.ray_pool import RayPool

        sent = {name: value for name, value in os.environ.items() if not name.startswith(NOT_SENT)}
        if self._options.resources.get("num_gpus"):
            sent["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # others may have a part of the same one
        resources = {name: amount for name, amount in self._options.resources.items() if amount is not None}
        pool = RayPool(slots=slots, resources=resources, environment=sent)
        return pool, max(1, int(self._options.needs.get("CPU", 1)))

    @cached_property
    def _nodes(self) -> dict[str, dict[str, float]]:
        """The resources of the nodes that are alive, by their ids."""
        _connect(self._options.address)
        import ray

        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    def _check_nodes(self, folder: Path) -> None:
        """All nodes of now must be closed to others and share the folder; what computes otherwise there is said."""
        nodes = self._nodes
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found: dict[str, dict[str, Any]] = {}

        def ask(offered: str) -> dict[str, str | None]:
            tasks = [
                ray.remote(look_around)
                .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                .remote(offered)
                for node in nodes
            ]
            for node, task in zip(nodes, tasks, strict=True):
                try:
                    found[node] = ray.get(task, timeout=ANSWER_SECONDS)
                except ray.exceptions.RayError as error:
                    print(f"warning: node {node[:8]} gives no answer: {one_line(str(error))}", file=sys.stderr)
            return {f"{node['host']} (node {id[:8]})": node["problem"] for id, node in found.items()}

        check_shared(folder, ask)
        if not found:
            raise ConfigError(f"hydra.launcher.address={self._options.address}: no node of the cluster gives an answer")
        here = {**environment(), "variables": None}  # which a job has from here
        for node, there in found.items():
            if there["auth"] != "token":
                raise ConfigError(f"{there['host']} (node {node[:8]}) runs without RAY_AUTH_MODE=token: {TOKEN}")
            if differs := environment_changes(here, there["environment"]):
                print(f"note: {there['host']} differs from this machine: {', '.join(differs)}", file=sys.stderr)


def _connect(address: str) -> None:
    """Join the cluster as a driver; ConfigError where that cannot be."""
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(f"hydra/launcher=ray needs ray: {install_command('ray')}") from error
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not (file.is_file() and file.read_text().strip()):
        raise ConfigError(f"hydra/launcher=ray: there is no token in {file}; {TOKEN}")  # which would end Ray itself
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        if address != "auto":  # Ray would wait for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(
            address,
            **{"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"},
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"hydra.launcher.address={address}: {one_line(str(error))}. Give the address that `ray start --head` "
            f"printed, and the token of that cluster in RAY_AUTH_TOKEN or {file}"
        ) from error
