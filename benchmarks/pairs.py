"""Commands measured side by side: interleaved fresh processes, results compared before times count.

    runs = interleave({"ours": [...], "peer": [...]}, repeats=5)        # A B A B ...
    require_close("loss", ours=runs["ours"][0]["loss"], peer=runs["peer"][0]["loss"], relative=1e-5)
    spread(ratios(runs["ours"], runs["peer"], "steps_per_second"))      # median, min, max

Each command's last line on standard output is one JSON object. Whatever else shares the machine then weighs on both
sides of a pair alike, so ratios are taken pair by pair.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from src.common.text import table_lines

ROOT = Path(__file__).resolve().parents[1]
STDERR_LINES = 20  # of a failed process, shown


class BenchmarkError(RuntimeError):
    """The benchmark has no valid result."""


class ProcessFailed(BenchmarkError):
    """A measured process ended with an error or printed no result."""


class Disagreement(BenchmarkError):
    """The two sides did not compute the same thing, so their times mean nothing."""


class Spread(NamedTuple):
    """Median, least and largest of some numbers."""

    median: float
    min: float
    max: float


def run(name: str, command: Sequence[str]) -> dict[str, Any]:
    """Run a command in a fresh process at the project's root; returns the JSON object of its last line.

    Raises:
        ProcessFailed: with the end of what it wrote to standard error.
    """
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    try:
        result = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except ValueError:
        result = None
    if done.returncode or not isinstance(result, dict):
        tail = "\n".join(done.stderr.strip().splitlines()[-STDERR_LINES:])
        what = f"exit code {done.returncode}" if done.returncode else "no JSON object in its last line"
        raise ProcessFailed(f"the process of {name!r} failed ({what})\n{tail}")
    return result


def interleave(
    commands: Mapping[str, Sequence[str]], *, repeats: int, label: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Run all commands one after another, `repeats` times over; the results by name, in order."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(1, repeats + 1):
        for name, command in commands.items():
            print(f"{label} {number}/{repeats}: {name}", file=sys.stderr, flush=True)
            results[name].append(run(name, command))
    return results


def require_close(
    what: str, *, ours: Sequence[float], peer: Sequence[float], relative: float = 0.0, absolute: float = 0.0
) -> float:
    """Compare two sequences of numbers; returns the largest relative difference.

    Raises:
        Disagreement: naming the first pair that is further apart than allowed, or the lengths.
    """
    if len(ours) != len(peer) or not ours:
        raise Disagreement(f"{what}: ours has {len(ours)} values, the peer {len(peer)}")
    for number, (a, b) in enumerate(zip(ours, peer, strict=True), start=1):
        if not math.isclose(a, b, rel_tol=relative, abs_tol=absolute):
            allowed = f"{relative:g} of it" if relative else f"{absolute:g}"
            raise Disagreement(
                f"{what}, value {number}: ours {a!r}, the peer {b!r}; allowed is a difference of {allowed}"
            )
    return max(abs(a - b) / (max(abs(a), abs(b)) or 1.0) for a, b in zip(ours, peer, strict=True))


def require_equal(what: str, *, ours: Any, peer: Any) -> None:
    """Raise Disagreement unless the two are the same."""
    if ours != peer:
        raise Disagreement(f"{what}: ours {ours!r}, the peer {peer!r}")


def spread(values: Sequence[float]) -> Spread:
    """Median, least and largest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[Mapping[str, Any]], peer: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """ours / peer of one number, pair by pair."""
    return [a[key] / b[key] for a, b in zip(ours, peer, strict=True)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text, the first row a header; the first column to the left, numbers to the right."""
    header, *lines = table_lines(rows, right=rows[0][1:])
    return "\n".join([header, "-" * len(header), *lines])


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    unit = 1024**2 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> str:
    """One line on where this was measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras"))
    return f"{cores} cores ({platform.machine()}), Python {platform.python_version()}, {versions}"
