"""What a run was computed in: commit, packages, Python, processor, Keras's defaults, environment variables.

environment()                       # {"git": {"commit": "1f0c...", "dirty": False}, "packages": {...}, ...}
environment_changes(then, now)      # ["keras 3.15.0 -> 3.15.1"]
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.common.code import ROOT
from src.common.machine import KERAS
from src.runs.sources import repository_state

# The environment variables that may change bits: those of TensorFlow, XLA and Keras, and of the libraries that do
# arithmetic for them and NumPy. Of TF_, only words that TensorFlow knows: Terraform keeps secrets in others.
_OF_TENSORFLOW = (
    "AUTO_MIXED AUTOTUNE BF16 CONV2D CPU CUBLAS CUBLASLT CUDA CUDNN CUFFT DATA_EXPERIMENT DETERMINISTIC DISABLE EAGER "
    "ENABLE ENABLED FP16 FP8 FUNCTION GPU GRAPH JIT MATMUL MKL NUM ONEDNN OPTIONALS OVERRIDE ROCM RUN_HANDLER SET TRT "
    "USE XLA ZENDNN"
)
_OF_LIBRARIES = (
    "BLIS CUBLAS CUBLASLT CUDNN DNNL GLIBC_TUNABLES GOMP GOTO HIPBLASLT KERAS KMP MIOPEN MKL NPY_DISABLE_CPU "
    "NPY_ENABLE_CPU NVIDIA_TF32 OMP ONEDNN OPENBLAS VECLIB XLA ZENDNN"
)
COMPUTES = re.compile(rf"(TF_({'|'.join(_OF_TENSORFLOW.split())})|{'|'.join(_OF_LIBRARIES.split())})(_|$)")
# Of these, what only talks, what says where something lies, and what stands elsewhere in the record.
_COMPUTES_NOTHING = re.compile(r"VERBOSE|_LOG|DISPLAY|WARNINGS|DUMP|DEBUG_OPS|_(DIR|HOME|PATH)$|KERAS_BACKEND$")

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "hydra-core", "omegaconf")


def environment() -> dict[str, Any]:
    """Commit, package versions, Python, processor, Keras's defaults and environment variables of this process."""
    return {
        "git": repository_state(ROOT),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": _processor(),
        "keras": KERAS,
        "variables": variables(os.environ),
    }


def environment_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the environments of two starts of a run, as `keras 3.15.0 -> 3.15.1`.

    What the record of `then` does not have is not compared.
    """
    pairs = {key: (then.get(key), now[key]) for key in ("python", "processor")}
    packages = then.get("packages") or {}
    pairs |= {name: (packages.get(name), version) for name, version in now["packages"].items()}
    before, after = ((environment.get("git") or {}).get("commit", "")[:10] for environment in (then, now))
    pairs["commit"] = (before, after)
    changes = [f"{key} {old} -> {new}" for key, (old, new) in pairs.items() if old and old != new]
    for kind, prefix in (("keras", "keras "), ("variables", "")):
        old, new = then.get(kind), now[kind]
        if old is not None:
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            changes += [f"{prefix}{name} {_shown(old.get(name))} -> {_shown(new.get(name))}" for name in names]
    return changes


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those environment variables that may change the bits of a result."""
    names = [name for name in environ if COMPUTES.match(name) and not _COMPUTES_NOTHING.search(name)]
    return {name: environ[name] for name in sorted(names)}


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value) or "''"


def _version(package: str) -> str | None:
    from importlib import metadata  # takes 25 ms

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
