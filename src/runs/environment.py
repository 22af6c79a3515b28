"""What a run was computed in: commit, packages, Python, processor.

environment()                       # {"git": {"commit": "1f0c...", "dirty": False}, "packages": {...}, ...}
environment_changes(then, now)      # ["keras 3.15.0 -> 3.15.1"]
"""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from src.runs.provenance import ROOT

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "hydra-core", "omegaconf")


def environment() -> dict[str, Any]:
    """Commit, package versions, Python and processor of this process."""
    return {
        "git": _git(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": _processor(),
    }


def environment_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the environments of two starts of a run, as `keras 3.15.0 -> 3.15.1`."""
    pairs = {key: (then.get(key), now[key]) for key in ("python", "processor")}
    packages = then.get("packages") or {}
    pairs |= {name: (packages.get(name), version) for name, version in now["packages"].items()}
    before, after = ((environment.get("git") or {}).get("commit", "")[:10] for environment in (then, now))
    pairs["commit"] = (before, after)
    return [f"{key} {old} -> {new}" for key, (old, new) in pairs.items() if old and old != new]


def _git() -> dict[str, Any] | None:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
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
