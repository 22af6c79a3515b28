"""A job whose machine is lost goes on elsewhere, after a while, and has not failed by that."""

from __future__ import annotations

import dataclasses
import io
import os
import time

import pytest

from src.common.machine import this_process
from src.runs.provenance import fingerprints
from src.runs.record import Record
from src.sweeps import sweep as sweeps
from src.sweeps.processes import ProcessPool
from src.sweeps.record import SweepRecord
from src.sweeps.show import Lines
from src.sweeps.sweep import Rules, Sweep
from tests.sweeps.test_sweep import IDENTITY, job

LOST = 9  # the exit code of a process whose machine is lost, below


class Pool(ProcessPool):
    """Whose processes wait for a place until `begins` of time.monotonic()."""

    begins = 0.0

    def wait(self, *, timeout_seconds):
        error = {"type": "ActorDiedError", "message": "as Ray has it"}
        return [
            dataclasses.replace(ended, exit_code=1, error=error, lost=True) if ended.exit_code == LOST else ended
            for ended in super().wait(timeout_seconds=timeout_seconds)
        ]

    def is_waiting(self, key):
        return time.monotonic() < self.begins


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(sweeps, "LOSS_SECONDS", 0.02)


def run(planned, *, number, threads, again):
    """Loses its machine as often as its seed says; `kind` is how far each try comes."""
    kind, losses = (text.split("=")[1] for text in planned.overrides)
    planned.directory.mkdir(parents=True, exist_ok=True)
    with (planned.directory / "tries").open("a") as file:
        file.write(f"{again}\n")
    tries = len((planned.directory / "tries").read_text().splitlines())
    if kind == "never" and tries <= int(losses):
        os._exit(LOST)
    record = Record(planned.directory)
    record.update(
        status="running", config_hash=planned.config_hash, process=this_process(), fingerprints=fingerprints(IDENTITY)
    )
    record.update(step=tries if kind == "steps" else 0, best=None)
    if kind == "fails":
        record.update(status="failed", error={"type": "LookupError", "message": "broken"})
    if kind == "done":
        record.update(status="completed", best={"value": 0.5, "epoch": 4, "step": 4})
    if tries <= int(losses):
        os._exit(LOST)
    record.update(status="completed", best={"value": 0.5, "epoch": 4, "step": 4})


def swept(tmp_path, *jobs, pool=None, **rules):
    stream = io.StringIO()
    pool = pool or Pool(slots=[{}, {}])
    record = SweepRecord.create(tmp_path / "sweeps", sweep_id="a")
    with Sweep(pool, record, Lines(stream), rules=Rules(**rules), run=run) as sweep:
        for each in jobs:
            sweep.add(each)
        while sweep.busy:
            sweep.poll(0.02)
    return sweep, stream.getvalue()


def tries(planned):
    return (planned.directory / "tries").read_text().split()


def test_it_goes_on_elsewhere_and_its_tries_are_not_used_up(tmp_path):
    lost, other = job(tmp_path, "none", seed=3), job(tmp_path, "none", seed=0)
    sweep, said = swept(tmp_path, lost, other)
    assert [state.status for state in sweep.states] == ["completed"] * 2 and sweep.exit_code == 0
    assert (sweep.states[0].tries, sweep.states[0].losses, sweep.states[0].reason) == (1, 3, None)
    assert tries(lost) == ["False", "True", "True", "True"]
    assert said.count(f"waiting  {this_process()['host']} was lost") == 3, said


def test_a_job_that_comes_to_no_step_has_failed_after_some_losses(tmp_path):
    lost = job(tmp_path, "none", seed=99)
    sweep, _ = swept(tmp_path, lost, retries=2)
    assert sweep.states[0].status == "failed" and sweep.exit_code == 1
    assert sweep.states[0].reason == f"MachineLost: {this_process()['host']} was lost, as 5 before it"
    assert len(tries(lost)) == 6 and Record(lost.directory).read()["status"] == "failed"


def test_a_job_that_comes_further_each_time_is_never_given_up(tmp_path):
    lost = job(tmp_path, "steps", seed=12)
    sweep, _ = swept(tmp_path, lost)
    assert sweep.states[0].status == "completed" and len(tries(lost)) == 13


@pytest.mark.parametrize(("kind", "status"), [("done", "completed"), ("fails", "failed")])
def test_what_it_had_come_to_before_counts(tmp_path, kind, status):
    lost = job(tmp_path, kind, seed=1)
    sweep, _ = swept(tmp_path, lost)
    assert sweep.states[0].status == status and len(tries(lost)) == 1


def test_a_job_that_had_not_begun_may_still_set_aside_what_lies_there(tmp_path):
    lost = job(tmp_path, "never", seed=2)
    swept(tmp_path, lost)
    assert tries(lost) == ["False"] * 3


def test_each_loss_is_waited_for_twice_as_long(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "LOSS_SECONDS", 0.2)
    began = time.monotonic()
    swept(tmp_path, job(tmp_path, "none", seed=3))
    assert time.monotonic() - began > 0.2 + 0.4 + 0.8


def test_waiting_for_a_place_is_none_of_the_time_of_a_try(tmp_path):
    waiting = job(tmp_path, "hang")
    pool = Pool(slots=[{}])
    pool.begins = time.monotonic() + 2.0
    record = SweepRecord.create(tmp_path / "sweeps", sweep_id="a")
    with Sweep(pool, record, Lines(io.StringIO()), rules=Rules(job_timeout_seconds=0.5), run=_sleep) as sweep:
        sweep.add(waiting)
        while sweep.busy:
            sweep.poll(0.02)
    assert time.monotonic() > pool.begins + 0.5
    assert sweep.states[0].reason.startswith("TimeoutError")


def _sleep(planned, **_):
    time.sleep(60)
