"""Faults put into the code one at a time: does a test find each?

    python -m benchmarks seeded_faults              # all of tests/seeded_faults.toml
    python -m benchmarks seeded_faults warm-up IoU  # those with such words

Each fault is put into a copy of the files that are here, and the tests named with it must fail. Exit code 1 if any
fault is not found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from benchmarks.pairs import ROOT, BenchmarkError

FAULTS = ROOT / "tests" / "seeded_faults.toml"
TESTS_FAILED = 1  # pytest's exit code; any other says nothing of the fault


def main(argv: list[str]) -> int:
    """Put the faults in and print what was found; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks seeded_faults", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="word", help="of the faults wanted; all by default")
    words = parser.parse_args(argv).words
    chosen = [fault for fault in faults() if not words or any(word in fault["what"] for word in words)]
    found = 0
    with tempfile.TemporaryDirectory(prefix="seeded-") as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "outputs", ".*cache", "__pycache__"))
        for fault in chosen:
            began = time.monotonic()
            is_found = finds(tree, fault)
            found += is_found
            verdict = "found" if is_found else "NOT FOUND"
            print(f"{verdict:9}  {time.monotonic() - began:4.0f} s  {fault['what']} ({fault['tests']})", flush=True)
    print(f"{found} of {len(chosen)} faults found")
    return int(found < len(chosen))


def faults() -> list[dict[str, str]]:
    """All of the list: what is wrong, the old text and the new, and the tests that find it."""
    return tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]


def place(tree: Path, fault: dict[str, str]) -> Path:
    """The one file of `src` that has the fault's old text, once.

    Raises:
        BenchmarkError: there is none, or more than one.
    """
    having = [path for path in sorted((tree / "src").rglob("*.py")) if fault["old"] in path.read_text(encoding="utf-8")]
    if len(having) != 1 or having[0].read_text(encoding="utf-8").count(fault["old"]) != 1:
        raise BenchmarkError(f"{FAULTS.name}: {fault['old']!r} stands in {len(having)} files of src; it must once")
    return having[0]


def finds(tree: Path, fault: dict[str, str]) -> bool:
    """Whether the tests named fail with the fault in the tree, which is as before afterwards."""
    path = place(tree, fault)
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(fault["old"], fault["new"]), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *fault["tests"].split()]
    try:
        done = subprocess.run(
            command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
        )
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, TESTS_FAILED):
        raise BenchmarkError(f"{fault['what']}: {' '.join(command)} ended with {done.returncode}: {done.stdout[-500:]}")
    return done.returncode == TESTS_FAILED
