"""Power cuts: an ext4 file system in a file, which forgets at a random moment all that is not on its disk.

    python -m benchmarks resume power                           # needs root, loop devices and mkfs.ext4
    python -m benchmarks resume power --without-fsync           # the control: most trials must fail

The cut is the ioctl EXT4_IOC_SHUTDOWN without a flush of the journal; then the run is killed, the file system unmounted
and mounted again, and the same command typed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.campaigns import ALL_STATE, Tally
from benchmarks.children import ask, prepare, start
from benchmarks.pairs import BenchmarkError
from src.runs.record import Record
from src.verify_resume import compare

EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH = 0x8004587D, 2
DISK_BYTES = 2**28
TOOLS = ("mkfs.ext4", "mount", "umount")
CUTS = 2  # of each trial
CONFIG = [*ALL_STATE, "callback.export=null", "callback.images=null"]  # which campaigns of their own are about
WITHIN_EPOCHS = ("batch_loss", "gradient_norm")  # of the summaries, with steps that the config decides
OF_ONE_PROCESS = ("train.log", "summaries/", "checkpoints/")  # files whose number or content no config decides


def power(folder: Path, count: int, *, seed: int = 0, without_fsync: bool = False) -> Tally:
    """Cut the power at random moments, two a trial; the final state must equal that of the undisturbed run."""
    if reason := impossible():
        return Tally("power", 0, 0, f"skipped: {reason}")
    prepare()
    straight = folder / "straight" / "run"
    began = time.monotonic()
    _finish(straight)
    seconds, generator = time.monotonic() - began, random.Random(seed)
    record = Record(straight).read()
    assert record is not None
    held, cuts, kinds = 0, 0, Counter[str]()
    with disk(folder) as mounted:
        for number in range(1, count + 1):
            directory, wrong = mounted() / f"trial-{number}" / "outputs" / "digits" / "run", []
            plan = sorted(generator.randint(0, record["epoch"]) for _ in range(CUTS))
            try:
                for epoch in plan:
                    delay = generator.uniform(0, seconds / record["epoch"])
                    cuts += cut(mounted, directory, epoch=epoch, delay=delay, without_fsync=without_fsync)
                _finish(directory, without_fsync=without_fsync)
                wrong += ask(differences, directory, straight)
            except (BenchmarkError, OSError, ValueError) as error:
                wrong.append(str(error))
            held += not wrong
            kinds.update({text.partition(" ")[0] for text in wrong})
            said = f"DIFFERS: {'; '.join(wrong)}" if wrong else "equal"
            print(f"power {number}: cut in epochs {', '.join(str(e + 1) for e in plan)}; {said}", flush=True)
            shutil.rmtree(mounted() / f"trial-{number}", ignore_errors=True)
    failed = "".join(f"; {kind} {n}" for kind, n in sorted(kinds.items()))
    return Tally("power", count, held, f"{cuts} power cuts{', without fsync' if without_fsync else ''}{failed}")


def impossible() -> str:
    """Why no power can be cut here; empty where it can."""
    if os.geteuid():
        return "needs root"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"needs {', '.join(missing)}"
    return "" if Path("/dev/loop-control").exists() else "needs loop devices"


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Callable[..., Path]]:
    """A file system in a file; gives a function that returns where it is mounted, after a power cut if that is asked.

    Raises:
        BenchmarkError: it cannot be made or mounted here.
    """
    image, place = folder / "disk.ext4", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _tool("mkfs.ext4", "-q", "-F", str(image))
    _tool("mount", "-o", "loop", str(image), str(place))

    def mounted(child: ForkProcess | None = None) -> Path:
        if child is not None:
            descriptor = os.open(place, os.O_RDONLY)
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
            os.close(descriptor)
            child.kill()
            child.join()
            _tool("umount", str(place))
            _tool("mount", "-o", "loop", str(image), str(place))
        return place

    try:
        yield mounted
    finally:
        _tool("umount", str(place))


def cut(
    mounted: Callable[..., Path], directory: Path, *, epoch: int, delay: float, without_fsync: bool = False
) -> bool:
    """Train until this many epochs are done and a delay has passed, then cut the power; whether it was in time."""
    child = _start(directory, without_fsync=without_fsync)
    log = directory / "train.log"
    position = log.stat().st_size if log.exists() else 0
    while child.is_alive() and not _has_done(log, position, epoch):
        time.sleep(0.01)
    child.join(delay)
    alive = child.is_alive()
    mounted(child)
    return alive


def _has_done(log: Path, position: int, epoch: int) -> bool:
    """Whether the process whose output begins at this position has done an epoch of at least this number."""
    if not log.exists():
        return False
    done = re.findall(rb"INFO src.callbacks.progress: epoch +(\d+)", log.read_bytes()[position:])
    return bool(done and int(done[-1]) >= epoch) or (not epoch and log.stat().st_size > position)


def _start(directory: Path, *, without_fsync: bool = False) -> ForkProcess:
    return start(
        [*CONFIG, f"hydra.run.dir='{directory}'"],
        output=Path(os.devnull),
        before=_forget_fsyncs if without_fsync else None,
    )


def _forget_fsyncs() -> None:
    """In a child: take out what is put on the disk before a checkpoint counts; the checkpoint's own files stay."""
    import src.training.checkpoints
    from src.training.trainer import Trainer

    Trainer._make_durable = lambda self: None
    src.training.checkpoints.fsync_folders = lambda folder: None


def _finish(directory: Path, *, without_fsync: bool = False) -> None:
    child = _start(directory, without_fsync=without_fsync)
    child.join()
    if child.exitcode:
        raise BenchmarkError(f"exit code {child.exitcode}: {(Record(directory).read() or {}).get('error')}")


def differences(directory: Path, straight: Path) -> list[str]:
    """What is not as in the undisturbed run: tensors, record, history, summaries, and files."""
    from src.callbacks.summaries import read_scalars

    wrong = compare(directory, straight)
    scalars = [read_scalars(path / "summaries") for path in (directory, straight)]
    keys = [("train", tag) for tag in WITHIN_EPOCHS]
    wrong += [f"summaries {'/'.join(key)}" for key in keys if len({repr(sorted(s.get(key, []))) for s in scalars}) > 1]
    if missing := (Record(directory).read() or {}).get("history_missing"):
        wrong.append(f"history_missing {missing}")
    files, expected = (_files(path) for path in (directory, straight))
    return wrong + [f"file {name}" for name in sorted(files ^ expected)]


def _files(directory: Path) -> set[str]:
    """The files, those that are empty left out."""
    paths = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    return {name for name, path in paths.items() if not name.startswith(OF_ONE_PROCESS) and path.stat().st_size}


def _tool(*command: str) -> None:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {found.stderr.strip()}")
