"""Whatever a job does to its process, the other jobs and the sweep go on, and say what became of it."""

from __future__ import annotations

import json
import re

import pytest

from src.runs.record import Record
from tests.support.helpers import train

FEW = ("none", "raise", "exit0", "kill", "segfault")
# `hang` comes first: what it costs, the time it is given and the grace to save, passes while the others run.
ALL = ("hang", "none", "raise", "exit0", "exit1", "_exit9", "kill", "segfault", "b")
AGAIN = ("none", "raise")  # of the same runs
TIMEOUT_SECONDS = 20
REASONS = {
    "hang": f"TimeoutError: no end after job_timeout_seconds={TIMEOUT_SECONDS}",
    "raise": "LookupError: broken on purpose",
    "exit0": "EarlyExit: sys.exit(0) was called before the run was over",
    "exit1": "EarlyExit: sys.exit(1) was called before the run was over",
    "_exit9": "ProcessDied: its process ended at once with exit code 9",
    "kill": "ProcessDied: killed by SIGKILL, by someone or for want of memory",
    "segfault": "ProcessDied: killed by SIGSEGV",
}
# What a run's own log must hold of its end; of those killed from outside of Python there is nothing to say.
LOGGED = {
    "raise": r"Traceback .*tests/support/faults\.py.*LookupError: broken on purpose",
    "exit0": r"Traceback .*tests/support/faults\.py.*SystemExit: 0",
    "exit1": r"Traceback .*tests/support/faults\.py.*SystemExit: 1",
    "segfault": r"Fatal Python error: Segmentation fault.*faults\.py",
}


def sweep(cwd, kinds):
    timeout_seconds = TIMEOUT_SECONDS if "hang" in kinds else "null"
    return train(
        *("--multirun", "data=digits", "model=mlp", "model.hidden_units=[8]", "optimizer=sgd", "schedule=constant"),
        *("epochs=2", "trainer.limit_train_batches=2"),
        *("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null"),
        *("+callback.fault._target_=tests.support.faults.Fault", f"+callback.fault.kind={','.join(kinds)}"),
        *("hydra.launcher.n_jobs=2", f"hydra.launcher.job_timeout_seconds={timeout_seconds}"),
        cwd=cwd,
    )


def records(cwd):
    """The sweeps' records, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(cwd.glob("outputs/digits/sweeps/*/sweep.json"))]


def by_kind(record):
    """A sweep's jobs."""
    return {job["overrides"][-1].partition("kind=")[2]: job for job in record["jobs"]}


def files(cwd, job):
    directory = cwd / job["directory"]
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [FEW, pytest.param(ALL, marks=pytest.mark.exhaustive)], ids=["few", "all"])
def test_ways_to_fail_are_named_and_tried_again_and_other_jobs_are_left_alone(tmp_path, kinds):
    reasons = {kind: reason for kind, reason in REASONS.items() if kind in kinds}
    first = sweep(tmp_path, kinds)
    assert first.returncode == 1, first.stderr
    jobs = by_kind(records(tmp_path)[0])
    assert tuple(jobs) == kinds
    assert {kind: job["status"] for kind, job in jobs.items()} == {
        kind: "failed" if kind in reasons else "completed" for kind in kinds
    }
    assert {kind: job["reason"] for kind, job in jobs.items() if job["reason"]} == reasons
    check_run_records(tmp_path, jobs)
    check_output(first, kinds, reasons)

    kept = files(tmp_path, jobs["none"])
    second = sweep(tmp_path, AGAIN)
    assert second.returncode == 1, second.stderr
    jobs_again = by_kind(records(tmp_path)[1])
    assert {kind: job["status"] for kind, job in jobs_again.items()} == {
        kind: "failed" if kind in REASONS else "reused" for kind in AGAIN
    }
    assert {kind: job["tries"] for kind, job in jobs_again.items()} == {kind: int(kind in REASONS) for kind in AGAIN}
    assert files(tmp_path, jobs_again["none"]) == kept
    assert len(list(tmp_path.glob("outputs/digits/mlp-*"))) == len(kinds)
    started = re.findall(r"^\[\d+/2\] callback\.fault\.kind=(\S+)  running$", second.stderr, re.M)
    assert started == ["raise"]


def check_run_records(cwd, jobs):
    for kind, job in jobs.items():
        record = Record(cwd / job["directory"]).read()
        assert record["status"] == job["status"], kind
        error = record["error"]
        assert (error and f"{error['type']}: {error['message']}") == REASONS.get(kind)
        log = (cwd / job["directory"] / "train.log").read_text()
        assert re.search(LOGGED.get(kind, ""), log, re.S), (kind, log)
        assert kind in LOGGED or "Traceback" not in log, (kind, log)


def check_output(done, kinds, reasons):
    """The table has a line a job, the failures stand below it and on standard error, with nothing of the children's."""
    rows = re.findall(r"^ *(\d+)  (\S+) +(?:0\.\d{6})? +\d/2 +(completed|failed) ", done.stdout, re.M)
    assert {kind: (int(number), status) for number, kind, status in rows} == {
        kind: (number, "failed" if kind in reasons else "completed") for number, kind in enumerate(kinds, start=1)
    }
    listed = re.findall(r"^job (\d+) failed: (.*)$", done.stdout, re.M)
    assert {kinds[int(number) - 1]: reason for number, reason in listed} == reasons
    said = re.findall(
        rf"^\[\d+/{len(kinds)}\] callback\.fault\.kind=(\S+)  failed  .*?([A-Z]\w+: .*)$", done.stderr, re.M
    )
    assert dict(said) == reasons
    assert re.search(
        rf"^{len(kinds) - len(reasons)} completed, {len(reasons)} failed: outputs/digits/sweeps/\S+/sweep\.json$",
        done.stderr,
        re.M,
    )
    assert "Traceback" not in done.stderr and "Fatal Python error" not in done.stderr
