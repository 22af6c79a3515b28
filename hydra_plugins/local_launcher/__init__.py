"""hydra/launcher=local: each job in a process of its own, some at a time, forked with TensorFlow imported.

Hydra finds plugins in this namespace and imports them for every command; what they do is in src/sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Runs jobs on this machine; conf/hydra/launcher/local.yaml has the options."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.local import LauncherOptions, LocalRunner

        self.local = LocalRunner(config, LauncherOptions.of(self._options))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that work in batches, Hydra's own and others."""
        states, exit_code = self.local.run(job_overrides)
        if exit_code > 128:
            raise SystemExit(exit_code)
        returns = []
        for state in states:
            status = JobStatus.COMPLETED if state.value is not None and state.reason is None else JobStatus.FAILED
            value = state.value if status == JobStatus.COMPLETED else RuntimeError(state.reason or state.status)
            returns.append(JobReturn(overrides=list(state.job.overrides), status=status, _return_value=value))
        return returns
