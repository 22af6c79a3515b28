"""Break whole sweeps, and time them: pairs, memory, interrupts, again, starts, pruning.

    python -m benchmarks sweeps                          # all campaigns at full count: about half an hour on two cores
    python -m benchmarks sweeps interrupts starts        # some of them
    python -m benchmarks sweeps --share 0.1              # a tenth of each count
    python -m benchmarks sweeps pairs --repeats 3 --epochs 10
    python -m benchmarks sweeps again --share 10         # a finished sweep of 1,000 jobs, which are trained first

Ends with a table; exit code 1 if anything that is promised did not hold. `pairs` needs the extra `bench`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.campaigns import ALL_STATE, Campaigns, Tally, parser, run
from benchmarks.figures import Figure
from benchmarks.pairs import (
    ROOT,
    STDERR_LINES,
    BenchmarkError,
    ProcessFailed,
    interleave,
    machine,
    ratios,
    require_equal,
    spread,
    table,
)
from src.common.logs import importing
from src.runs.record import Record
from src.verify_resume import compare

JOBS = 2  # of one sweep at a time
DIGITS = ("data=digits", "model=cnn")
# As little as a run can do: for campaigns that are about the sweep around it.
TINY = (
    *DIGITS,
    "epochs=1",
    "callback.export=null",
    "callback.images=null",
    "callback.hparams=null",
    "callback.summaries=null",
)

FRESH, JOBLIB, SWEEP = "one fresh process after another", "joblib, two workers", "ours, two at a time"
GOALS = {FRESH: 0.22, JOBLIB: 0.80}  # ours by theirs, of wall time
RUNS, EPOCHS = 8, 2

MOST_GROWTH_MB = 5.0  # of a sweep's parent, over all jobs but the first tenth
LEFT = ("completed", "interrupted")  # what the runs of an interrupted sweep may be
GONE_SECONDS = 15.0  # for all processes of an interrupted sweep to have saved and ended
AGAIN_SECONDS = {100: 15.0, 1000: 120.0}  # for a finished sweep of so many jobs, issued again


def main(argv: list[str]) -> int:
    """Run campaigns; returns the exit code."""
    options = parser("sweeps", __doc__, CAMPAIGNS)
    options.add_argument("--repeats", type=int, help="rounds of pairs, whatever the share")
    options.add_argument("--epochs", type=int, default=EPOCHS, help="of a run in pairs")
    arguments = options.parse_args(argv)
    count, campaign = CAMPAIGNS["pairs"]
    timed = functools.partial(campaign, epochs=arguments.epochs, repeats=arguments.repeats)
    return run({**CAMPAIGNS, "pairs": (count, timed)}, arguments)


def pairs(folder: Path, count: int, *, epochs: int = EPOCHS, runs: int = RUNS, repeats: int | None = None) -> Tally:
    """The wall time of a sweep against fresh processes and against joblib's workers, interleaved; results are equal."""
    try:
        metadata.version("hydra-joblib-launcher")
    except metadata.PackageNotFoundError:
        how = "pip install -c constraints.txt -e '.[bench]'"
        raise BenchmarkError(f"pairs needs hydra-joblib-launcher, of the extra `bench`: {how}") from None
    figures = measure(rounds=repeats or count, epochs=epochs, runs=runs)
    told = [f"{figure.name} {figure.median:.3f} (goal {figure.goal}: {figure.verdict})" for figure in figures]
    return Tally("pairs", len(figures), sum(figure.is_met for figure in figures), "; ".join(told))


def measure(*, rounds: int, epochs: int = EPOCHS, runs: int = RUNS) -> list[Figure]:
    """The wall time of a sweep, as a share of its peers'.

    Raises:
        Disagreement: results differ.
    """
    sides = {
        side: [sys.executable, "-m", "benchmarks.sweeps", side, str(epochs), str(runs)]
        for side in (SWEEP, FRESH, JOBLIB)
    }
    results = interleave(sides, repeats=rounds, label="pairs, round")
    for peer in GOALS:
        for ours, theirs in zip(results[SWEEP], results[peer], strict=True):
            require_equal(f"results, {peer}", ours=ours["results"], peer=theirs["results"])
    rows = [["", "seconds", "min", "max", "ours/this", "min", "max", "CPU seconds"]]
    for side, measured in results.items():
        ratio = spread(ratios(results[SWEEP], measured, "seconds"))
        seconds = spread([result["seconds"] for result in measured])
        used = spread([result["cpu_seconds"] for result in measured]).median
        rows.append([side, *(f"{x:.1f}" for x in seconds), *(f"{x:.3f}" for x in ratio), f"{used:.1f}"])
    print(f"{runs} runs: {' '.join(DIGITS)} epochs={epochs}; {rounds} interleaved rounds, equal results in all")
    print(f"machine: {machine()}\n\n{table(rows)}\n")
    return [
        Figure(
            f"sweep of {runs} runs: time, ours / {peer}", ratios(results[SWEEP], results[peer], "seconds"), at_most=goal
        )
        for peer, goal in GOALS.items()
    ]


def work(side: str, *, epochs: int, runs: int) -> dict[str, Any]:
    """One side of `pairs` in this process; returns its time and the results of all runs."""
    options = [*DIGITS, f"epochs={epochs}"]
    swept = _train("--multirun", *options, _seeds(runs))
    commands = {
        SWEEP: [[*swept, f"hydra.launcher.n_jobs={JOBS}"]],
        FRESH: [_train(*options, f"seed={seed}") for seed in range(runs)],
        JOBLIB: [[*swept, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={JOBS}"]],
    }[side]
    with tempfile.TemporaryDirectory(prefix="pairs-") as folder:
        began = time.perf_counter()
        for command in commands:
            _call(command, Path(folder))
        seconds = time.perf_counter() - began
        records = [Record(directory).read() or {} for directory in _directories(Path(folder)).values()]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {record["seed"]: [record["status"], record["best"], record["metrics"]] for record in records}
    if len(results) != runs:
        raise ProcessFailed(f"{side}: {len(results)} runs of {runs}")
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "results": sorted(results.items())}


def memory(folder: Path, count: int) -> Tally:
    """What a sweep's parent holds after each job; the growth by a linear fit, without the first tenth."""
    import numpy as np

    command = _train("--multirun", *TINY, _seeds(count), f"hydra.launcher.n_jobs={JOBS}")
    process = subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    samples, lines, completed = [], [], 0
    for line in process.stderr:
        lines.append(line)
        completed += bool(re.match(r"\[\d+/\d+\] .*  completed  ", line))
        if len(samples) < completed < count:  # after the last job, the process ends
            samples.append(resident_megabytes(process.pid))
    if process.wait() or completed != count:
        tail = "".join(lines[-STDERR_LINES:])
        raise ProcessFailed(f"memory: exit code {process.returncode}, {completed} of {count} jobs completed\n{tail}")
    first = max(1, count // 10)
    held = np.array(samples)[first:]
    growth = np.polyfit(np.arange(len(held)), held, 1)[0] * len(held)
    remark = f"parent {held[0]:.1f} to {held[-1]:.1f} MB, by a linear fit {growth:+.2f} (allowed {MOST_GROWTH_MB:+g})"
    return Tally("memory", 1, int(growth <= MOST_GROWTH_MB), f"jobs {first + 1} to {count}: {remark}")


def resident_megabytes(pid: int | str = "self") -> float:
    """The resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M)[1]) / 1024  # type: ignore[index]


def interrupts(
    folder: Path, count: int, *, jobs: int = 12, overrides: Sequence[str] = ALL_STATE, latest: float = 1.0
) -> Tally:
    """SIGKILL and SIGINT to the parent at random moments, then the same command: all equals an undisturbed sweep.

    The moments are in the first `latest` of the undisturbed sweep's time, one in each of as many equal parts as there
    are tries: some come before the first job has begun.
    """
    command = _train("--multirun", *overrides, _seeds(jobs), f"hydra.launcher.n_jobs={JOBS}")
    straight, began = folder / "straight", time.monotonic()
    _call(command, straight)
    whole, generator = time.monotonic() - began, random.Random(0)
    expected = _directories(straight)
    kinds = itertools.cycle([signal.SIGKILL, signal.SIGINT])
    parts = generator.sample(range(count), count)
    held, late, longest, moments = 0, 0, 0.0, []
    left: Counter[str] = Counter()
    for number, part in enumerate(parts, start=1):
        kind, trial = next(kinds), folder / f"trial-{number}"
        while True:  # until it was not over before
            moment = latest * whole * (part + generator.random()) / count
            seconds, wrong = _interrupt(command, trial, kind=kind, moment=moment)
            if seconds is not None:
                break
            late, whole = late + 1, min(whole, moment)  # the machine is less busy than it was
            if late > count:
                raise BenchmarkError(f"interrupts: {late} sweeps were over before their moment came")
            trial = folder / f"trial-{number}-{late}"
        statuses = _statuses(trial)
        left.update(statuses.values())
        wrong += [f"{name} is {status}" for name, status in statuses.items() if status not in LEFT]
        if kind == signal.SIGINT and any(record["finished"] is None for record in _records(trial)):
            wrong.append("sweep.json does not say that it is over")
        try:
            _call(command, trial)
            wrong += _differences(_directories(trial), expected)
        except ProcessFailed as error:
            wrong.append(str(error))
        shutil.rmtree(trial)
        held += not wrong
        moments.append(moment)
        longest = max(longest, seconds)
        verdict = f"WRONG: {'; '.join(wrong)}" if wrong else "equal bit for bit"
        when = f"{kind.name} after {moment:.1f} of {whole:.1f} s, all gone {seconds:.1f} s later"
        print(f"{when}, {len(statuses)} runs begun: {verdict}", flush=True)
    states = ", ".join(f"{n} {status}" for status, n in sorted(left.items())) or "none begun"
    return Tally(
        "interrupts",
        count,
        held,
        f"{jobs} jobs, at {min(moments):.1f} to {max(moments):.1f} of {whole:.1f} s; runs left behind: {states}; "
        f"longest until all processes were gone {longest:.1f} s",
    )


def _interrupt(
    command: list[str], folder: Path, *, kind: signal.Signals, moment: float
) -> tuple[float | None, list[str]]:
    """Start a sweep and signal its parent.

    Returns:
        The seconds until all its processes were gone, None where it was over before; and what was wrong.
    """
    folder.mkdir()
    # Where this process ignores SIGINT, as in the background of a shell, its children would too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=_environment(), start_new_session=True, **quiet)
    signal.signal(signal.SIGINT, before)
    try:
        process.wait(moment)
        return None, []
    except subprocess.TimeoutExpired:
        pass
    began, wrong = time.monotonic(), []
    process.send_signal(kind)
    while (alive := _alive(process)) and time.monotonic() - began < GONE_SECONDS:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    if alive:
        wrong.append(f"alive after {GONE_SECONDS:g} s: {', '.join(map(str, alive))}")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    expected = (-kind,) if kind == signal.SIGKILL else (128 + kind, -kind)  # -2 before main has begun
    if process.wait() not in expected and process.returncode != 0:
        wrong.append(f"exit code {process.returncode}")
    return seconds, wrong


def _differences(found: dict[str, Path], expected: dict[str, Path]) -> list[str]:
    """What differs between the runs of two finished sweeps; a run that is there twice, or was set aside, among it."""
    different = [f"{name} is not in both" for name in sorted(found.keys() ^ expected.keys())]
    with importing():  # TensorFlow says that it found no GPU
        for name in sorted(found.keys() & expected.keys()):
            different += [f"{name}: {what}" for what in compare(found[name], expected[name])]
    return different


def _alive(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of a session, its leader's children among them though they have groups of their own."""
    process.poll()  # a leader that has ended is a zombie until then
    return [found.pid for found in _processes() if found.session == process.pid and found.state not in "ZX"]


class _Process(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int


def _processes() -> Iterator[_Process]:
    """All on this machine."""
    if not Path("/proc/self/stat").exists():
        raise BenchmarkError("processes are looked for in /proc, which is not there")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # <pid> (<command>) <state> <parent> <group> <session> ...
            state, parent, _, session, *_ = path.read_text().rpartition(")")[2].split()
            yield _Process(int(path.parent.name), state, int(parent), int(session))


def again(folder: Path, count: int) -> Tally:
    """A finished sweep's command: all results, quickly, with nothing trained and nothing touched."""
    command = _train("--multirun", *TINY, _seeds(count), f"hydra.launcher.n_jobs={JOBS}")
    _call(command, folder)
    before = _files(folder)
    began = time.monotonic()
    done = _call([command[0], "-X", "importtime", *command[1:]], folder)
    seconds = time.monotonic() - began
    (few, few_seconds), (many, many_seconds) = AGAIN_SECONDS.items()
    limit = few_seconds + max(0, count - few) * (many_seconds - few_seconds) / (many - few)
    known = len(re.findall(r"  completed before  ", done.stdout))
    imported = re.search(r"\| +(tensorflow|keras)\b", done.stderr)
    ok = seconds <= limit and known == count and _files(folder) == before and not imported
    touched = "no file of a run touched" if _files(folder) == before else "FILES TOUCHED"
    remark = f"{count} jobs: {seconds:.1f} s of {limit:.0f} allowed, {known} known, {touched}"
    return Tally("again", 1, int(ok), remark + (", TensorFlow imported" if imported else ""))


def starts(folder: Path, count: int, *, jobs: int = 4) -> Tally:
    """The same sweep started many times at once: a record each, and every run trained once, by one of them."""
    tiny = ("epochs=2", *(override for override in TINY if override != "epochs=1"))
    command = _train("--multirun", *tiny, _seeds(jobs), f"hydra.launcher.n_jobs={JOBS}")
    options: dict[str, Any] = {"cwd": folder, "env": _environment(), "stdout": subprocess.DEVNULL}
    processes = []
    for number in range(count):
        with (folder / f"errors-{number}").open("w") as errors:
            processes.append(subprocess.Popen(command, stderr=errors, **options))
    codes = Counter(process.wait() for process in processes)
    records = _records(folder)
    runs = _directories(folder)
    trained = Counter(job["id"] for record in records for job in record["jobs"] if job["status"] == "completed")
    statuses = Counter(job["status"] for record in records for job in record["jobs"])
    once = sum(_trained_once(directory, epochs=2) and trained[directory.name[-8:]] == 1 for directory in runs.values())
    whole = sum(record["exit_code"] == 0 and len(record["jobs"]) == jobs for record in records)
    ok = codes == {0: count} and len(records) == whole == count and len(runs) == once == jobs
    ok = ok and statuses == {"completed": jobs, "reused": jobs * (count - 1)}
    seconds = len({record["started"] for record in records})
    remark = (
        f"{count} sweeps of {jobs} jobs: {len(records)} records, begun within {seconds} seconds; {len(runs)} runs, "
        f"{once} of them trained once; jobs {', '.join(f'{n} {status}' for status, n in statuses.items())}; "
        f"exit codes {', '.join(f'{code} ({n}x)' for code, n in codes.items())}"
    )
    return Tally("starts", count, count if ok else 0, remark)


def pruning(folder: Path, count: int) -> Tally:
    """The best value with a pruner and a third of the epochs, against all trials run to their end; a seed a try."""
    held, lines = 0, []
    for seed in range(count):
        found = {name: _search(folder / f"{name}-{seed}", seed, options) for name, options in SEARCHES.items()}
        (whole, all_epochs), (pruned, few_epochs) = found["whole"], found["pruned"]
        ok = pruned >= whole and few_epochs <= all_epochs / 3
        held += ok
        lines.append(f"{pruned:.4f} by {few_epochs} epochs, {whole:.4f} by {all_epochs}")
        print(f"seed {seed}: {lines[-1]}{'' if ok else '  WORSE'}", flush=True)
    return Tally("pruning", count, held, "best val/accuracy " + "; ".join(lines))


SPACE = (
    "optimizer.learning_rate=tag(log,interval(1e-5,1.0))",
    "model.filters=range(4,33,4)",
    "model.dropout=interval(0,0.7)",
)
SEARCHES = {  # the same random trials
    "whole": ("hydra.sweeper.n_trials=12",),
    "pruned": (
        "hydra.sweeper.n_trials=12",
        "hydra.sweeper.pruner._target_=optuna.pruners.SuccessiveHalvingPruner",
        "+hydra.sweeper.pruner.min_resource=1",
        "+hydra.sweeper.pruner.reduction_factor=3",
    ),
}


def _search(folder: Path, seed: int, options: Sequence[str]) -> tuple[float, int]:
    """The best value of a study, and the epochs of all its trials."""
    lean = (
        "epochs=27",
        "batch_size=8",
        "callback.export=null",
        "callback.images=null",
        "callback.hparams=null",
        "callback.summaries=null",
    )
    random = ("hydra/sweeper=optuna", "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler")
    fixed = (*DIGITS, *lean, *random)
    _call(_train("--multirun", *fixed, *SPACE, f"hydra.sweeper.sampler.seed={seed}", *options), folder)
    records = [Record(path).read() or {} for path in _directories(folder).values() if (path / "run.json").exists()]
    values = [record["best"]["value"] for record in records if record["best"]]
    return max(values), sum(record["epoch"] for record in records)


def _trained_once(directory: Path, *, epochs: int) -> bool:
    """Whether a run was begun once, and each epoch done once."""
    begun = re.findall(r"parameters  threads: ", (directory / "train.log").read_text())
    done = [line["epoch"] for line in Record(directory).history()]
    return len(begun) == 1 and done == list(range(1, epochs + 1))


def _train(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "src.train", *arguments]


def _seeds(count: int) -> str:
    return f"seed={','.join(map(str, range(count)))}"


def _environment() -> dict[str, str]:
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": str(ROOT)}


def _call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder to its end.

    Raises:
        ProcessFailed: with the end of what it wrote to standard error.
    """
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-STDERR_LINES:])
        raise ProcessFailed(f"{' '.join(command[1:])}: exit code {done.returncode}\n{tail}")
    return done


def _directories(folder: Path) -> dict[str, Path]:
    """All that lies beside the runs' records, runs set aside included."""
    found = {path.name: path for path in folder.glob("outputs/*/*") if path.is_dir()}
    return {name: path for name, path in found.items() if name not in ("sweeps", "studies", ".locks")}


def _records(folder: Path) -> list[dict[str, Any]]:
    """Of all sweeps."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/*/sweeps/*/sweep.json"))]


def _statuses(folder: Path) -> dict[str, str]:
    return {name: record["status"] for name, path in _directories(folder).items() if (record := Record(path).read())}


def _files(folder: Path) -> dict[Path, int]:
    """When each file of the runs was last written."""
    paths = [path for directory in _directories(folder).values() for path in directory.rglob("*")]
    return {path: path.stat().st_mtime_ns for path in paths}


CAMPAIGNS: Campaigns = {
    "pairs": (5, pairs),
    "memory": (200, memory),
    "interrupts": (20, interrupts),
    "again": (100, again),
    "starts": (20, starts),
    "pruning": (5, pruning),
}

if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], epochs=int(sys.argv[2]), runs=int(sys.argv[3]))))
