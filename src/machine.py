"""What this machine has and wants, asked without TensorFlow: cores, GPUs, Keras's backend, want of memory.

available_cores()       # 2
visible_gpus()          # ["0", "1"]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
