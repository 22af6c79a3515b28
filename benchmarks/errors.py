"""Errors of a disk: each call of a small run that writes fails once, and a disk has room for few files.

    python -m benchmarks resume errors inodes       # need a C compiler; root

A run whose call fails ends with a message or completes; then the same command, typed again, completes. Completed, it
has all that a run without errors has.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.campaigns import Tally
from benchmarks.children import ask, prepare, start
from benchmarks.pairs import BenchmarkError
from benchmarks.power import differences
from src.runs.record import Record

SOURCE = Path(__file__).with_name("faults.c")
ERRORS = (errno.EIO, errno.ENOSPC)
PATH_MAX = 4096
SMALL = [
    *("data=digits", "model=mlp", "model.hidden_units=[4]", "batch_size=256", "epochs=2", "callback.images.examples=1"),
    *("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "callback.histograms.enabled=true"),
]


class Faults(ctypes.Structure):
    """As in faults.c, in memory that children share."""

    _fields_ = (
        ("calls", ctypes.c_long),
        ("fails", ctypes.c_long),
        ("error", ctypes.c_int),
        ("directory", ctypes.c_char * PATH_MAX),
        ("failed", ctypes.c_char * PATH_MAX),
    )


def errors(folder: Path, count: int) -> Tally:
    """EIO and ENOSPC at each call that writes below a run's directory, or at `count` of them, evenly chosen."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        return Tally("errors", 0, 0, "skipped: needs Linux and a C compiler")
    library = folder / "faults.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], capture_output=True, text=True
    )
    if made.returncode:
        raise BenchmarkError(f"{SOURCE} does not compile: {made.stderr}")
    command = [sys.executable, "-m", "benchmarks.errors", str(folder), str(count)]
    with subprocess.Popen(
        command, env={**os.environ, "LD_PRELOAD": str(library)}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        line = ""
        for line in child.stdout:
            if not line.startswith("["):
                print(line, end="", flush=True)
    if child.returncode:
        raise BenchmarkError("errors: the child failed")
    return Tally(*json.loads(line))


def inodes(folder: Path, count: int) -> Tally:
    """A tmpfs with room for few files, `count` sizes of it; then it has room, and the same command is typed again."""
    if os.geteuid() or not shutil.which("mount"):
        return Tally("inodes", 0, 0, "skipped: needs root")
    prepare()
    straight = folder / "straight" / "run"
    _finish(straight, folder)
    needed = 2 * sum(1 for _ in straight.rglob("*"))
    sizes = _spread(count, needed)
    held = stopped = 0
    for size in sizes:
        disk = folder / f"disk-{size}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"nr_inodes={size}", "tmpfs", str(disk)], check=True)
        try:
            wrong, code = _tried(disk / "outputs" / "run", straight, folder, lambda disk=disk: _more_inodes(disk))
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        held, stopped = held + (not wrong), stopped + bool(code)
        if wrong:
            print(f"inodes {size}: {'; '.join(wrong)}", flush=True)
    return Tally("inodes", len(sizes), held, f"tmpfs with room for 1 to {needed} files; {stopped} times it did not do")


def _serve(folder: Path, count: int) -> Tally:
    """In a process with the library."""
    prepare()
    shared = Faults.from_buffer(mmap.mmap(-1, ctypes.sizeof(Faults)))
    begin = ctypes.CDLL(None).faults_begin

    def attach() -> None:
        begin(ctypes.byref(shared))

    straight = folder / "straight" / "run"
    shared.directory = os.fsencode(straight.resolve())
    _finish(straight, folder, attach)
    calls, held, stopped = shared.calls, 0, 0
    tries = list(itertools.product(range(1, calls + 1), ERRORS))
    tries = [tries[place - 1] for place in _spread(count, len(tries))]
    for number, error in tries:
        directory = folder / f"{number}-{errno.errorcode[error]}" / "run"
        shared.calls, shared.fails, shared.error, shared.failed = 0, number, error, b""
        shared.directory = os.fsencode(directory.resolve())

        def mend() -> None:
            shared.fails = 0

        wrong, code = _tried(directory, straight, folder, mend, attach)
        held, stopped = held + (not wrong), stopped + bool(code)
        if wrong:
            what = f"{errno.errorcode[error]} at call {number}, {shared.failed.decode(errors='replace')}"
            print(f"{what}: {'; '.join(wrong)}", flush=True)
        else:
            shutil.rmtree(directory.parent)
    return Tally("errors", len(tries), held, f"a run makes {calls} calls; {stopped} of these failures ended it")


def _tried(directory: Path, straight: Path, folder: Path, mend, before=None) -> tuple[list[str], int | None]:
    """What did not hold of one failing run and the same command again, and the first one's exit code."""
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    child = start([*SMALL, f"hydra.run.dir='{directory}'"], output=output, before=before)
    child.join()
    code, said, wrong = child.exitcode, output.read_text(), []
    if code not in (0, 1):
        wrong.append(f"exit code {code}: {said[-300:]}")
    if code == 1 and "error: " not in said:
        wrong.append(f"no message: {said[-300:]}")
    if code == 0 or _status(directory) == "completed":
        wrong += [f"completed without {text}" for text in _differences(directory, straight)]
    mend()
    try:
        _finish(directory, folder)
        wrong += _differences(directory, straight)
    except BenchmarkError as error:
        wrong.append(f"the same command again: {error}")
    return wrong, code


def _status(directory: Path) -> str | None:
    try:
        return (Record(directory).read() or {}).get("status")
    except ValueError:
        return None


def _differences(directory: Path, straight: Path) -> list[str]:
    try:
        return ask(differences, directory, straight)
    except BenchmarkError as error:
        return [str(error)]


def _finish(directory: Path, folder: Path, before=None) -> None:
    output = folder / "output.txt"
    child = start([*SMALL, f"hydra.run.dir='{directory}'"], output=output, before=before)
    child.join()
    if child.exitcode:
        raise BenchmarkError(f"exit code {child.exitcode}: {output.read_text()[-600:]}")


def _more_inodes(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=100000", str(disk)], check=True)


def _spread(count: int, last: int) -> list[int]:
    """Up to `count` numbers from 1 to `last`, evenly."""
    count = min(count, last)
    return sorted({round(1 + place * (last - 1) / max(1, count - 1)) for place in range(count)})


if __name__ == "__main__":
    print(json.dumps(_serve(Path(sys.argv[1]), int(sys.argv[2]))))
