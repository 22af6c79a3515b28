"""What this machine has and wants, asked without TensorFlow: cores, GPUs, Keras's backend, free memory.

available_cores()       # 2
visible_gpus()          # ["0", "1"]
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

# What every run sets, so that no keras.json decides; see build.set_up_process.
KERAS = {"backend": "tensorflow", "floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}
JOB_IDS = ("SLURM_JOB_ID", "RAY_JOB_ID")  # variables in which a cluster says what a process is part of
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")  # of control groups, version 1


def this_process() -> dict[str, Any]:
    """Its `pid` and `host`, and on a cluster the id of its `job` there."""
    jobs = [os.environ[name] for name in JOB_IDS if os.environ.get(name)]
    return {"pid": os.getpid(), "host": socket.gethostname()} | ({"job": jobs[0]} if jobs else {})


def available_cores() -> int:
    """The cores that this process may use; in a Slurm job, which need not be bound to its own, those it was given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK") or cores))


def visible_gpus() -> list[str]:
    """The names, for CUDA_VISIBLE_DEVICES, of the GPUs that this process may use.

    TensorFlow is not asked: CUDA, once started, does not survive a fork.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return [name for name in names if name and name != "-1"]
    if not (program := shutil.which("nvidia-smi")):
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.M)


def free_memory() -> int | None:
    """Bytes that this process may still take, swap included: of the machine, or of its control group if less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {name: int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree") if name in lines}
    free = [1024 * sum(kilobytes.values())] if "MemAvailable" in kilobytes else []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", *(() if number == "0" else ("memory",)))
        if number == "0" or "memory" in controllers.split(","):
            names = ("memory.max", "memory.current") if number == "0" else V1_FILES
            for folder in (root / path.lstrip("/"), root):  # within a container the path is the root itself
                try:
                    limit, used = ((folder / name).read_text().strip() for name in names)
                    cached = dict(pair.split() for pair in (folder / "memory.stat").read_text().splitlines())
                    free.append(int(limit) - int(used) + int(cached.get("inactive_file", 0)))
                except (OSError, ValueError):  # not there, or "max"
                    continue
    return max(0, min(free)) if free else None


def memory_kills() -> int:
    """How many processes the system has killed for want of memory since it started; 0 where it does not say."""
    try:
        return int(re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.M)[1])  # type: ignore[index]
    except (OSError, TypeError):
        return 0


def settle_keras_backend() -> None:
    """Have Keras, which is not imported yet, compute with TensorFlow, whatever keras.json says.

    Raises:
        ValueError: KERAS_BACKEND is set to another one.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND is {backend!r}, and this project computes with TensorFlow: unset it, or type "
            "KERAS_BACKEND=tensorflow before the command"
        )
    os.environ["KERAS_BACKEND"] = backend
