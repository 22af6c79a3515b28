"""hydra/launcher=local: a sweep on this machine, with its cores and GPUs divided among the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from src.common.machine import available_cores, visible_gpus
from src.sweeps.preload import preload
from src.sweeps.processes import ProcessPool, StartMethod
from src.sweeps.runner import PoolOptions, PoolRunner


@dataclass(frozen=True)
class LocalOptions(PoolOptions):
    """Of hydra/launcher=local; see there."""

    start: StartMethod | None = None


def default_start() -> StartMethod:
    """Fork, but not with GPUs: CUDA does not survive it, and who knows what starts it."""
    return "spawn" if visible_gpus() else "fork"


class LocalRunner(PoolRunner):
    """Runs the jobs of a sweep in child processes."""

    def __init__(self, config: DictConfig, options: LocalOptions) -> None:
        super().__init__(config, options)
        self._options = options
        self._gpus = visible_gpus()

    @property
    def n_jobs(self) -> int:
        return self._options.n_jobs or len(self._gpus) or available_cores()

    def make_pool(self, *, folder: Path, slots: int) -> tuple[ProcessPool, int]:
        pool = ProcessPool(
            slots=[self._environment(slot) for slot in range(slots)],
            start=self._options.start or default_start(),
            prepare=preload,
        )
        return pool, max(1, available_cores() // slots)

    def _environment(self, slot: int) -> dict[str, str]:
        if not self._gpus:
            return {}
        gpu = self._gpus[slot % len(self._gpus)]
        return {"CUDA_VISIBLE_DEVICES": gpu, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
