"""The rules of a sweep, with runs that only write records: who runs, who shares, who is tried again, who waits."""

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.identity import ID_DIGITS
from src.runs.provenance import fingerprints
from src.runs.record import Record
from src.runs.run import Run
from src.sweeps.job_state import JobState, disk_shortage
from src.sweeps.plan import Job
from src.sweeps.processes import ProcessPool
from src.sweeps.record import SweepRecord
from src.sweeps.show import Lines, duration, print_jobs, print_results, ranked, remaining_seconds, summary, swept_keys
from src.sweeps.sweep import Rules, Sweep

IDENTITY = {"model": {"_target_": "src.models.cnn.cnn"}}


def job(folder, kind, *, name="x", seed=0, epochs=4, mode="max", action="start", **more):
    """A job whose run does what `kind` says; see `fake`."""
    overrides = (f"kind={kind}", f"seed={seed}", *(f"{key}={value}" for key, value in more.items()))
    digits = hashlib.sha256(repr(overrides).encode()).hexdigest()
    directory = Path(folder) / name / f"run-{digits[:ID_DIGITS]}"
    cfg = OmegaConf.create({"name": name, "epochs": epochs, "monitor": "val/accuracy", "mode": mode, "wait": False})
    hydra = OmegaConf.create({"mode": "MULTIRUN", "overrides": {"task": list(overrides)}})
    run = Run(cfg, hydra, IDENTITY, digits, directory)
    return Job(overrides, digits, directory, cfg.monitor, mode, epochs, action, False, lambda: run)


def fake(planned, *, number, threads, again):
    """A run as its record shows it."""
    settings = dict(text.split("=", 1) for text in planned.overrides)
    record = Record(planned.directory)
    tries = planned.directory / "tries"
    planned.directory.mkdir(parents=True, exist_ok=True)
    with tries.open("a") as file:
        file.write(f"{os.environ.get('SLOT')} {threads} {again}\n")
    record.update(
        status="running",
        config_hash=planned.config_hash,
        process={"pid": os.getpid(), "host": socket.gethostname()},
        fingerprints=fingerprints(IDENTITY),
        epoch=0,
        seconds=0.0,
        best=None,
        disk_bytes=int(settings.get("disk_bytes", 0)) or None,
    )
    kind = settings["kind"]

    def complete(value):
        best = {"value": value, "epoch": 4, "step": 4}
        record.update(status="completed", epoch=4, seconds=2.0, best=best)

    if kind == "fail":
        time.sleep(float(settings.get("sleep", 0)))
    if kind == "fail" or (kind == "once" and not again):
        record.update(status="failed", error={"type": "LookupError", "message": "broken"})
        raise LookupError("broken")
    if kind == "wrong":
        record.update(status="failed", error={"type": "ConfigError", "message": "wrong"})
        raise ValueError("wrong")
    if kind == "unreadable":
        record.update(config_hash="another's")
        raise OSError("of no record")
    if kind == "vanish":
        os._exit(0)
    if kind == "garble":
        record.path.write_text("{")
        os._exit(0)
    if kind == "odd":
        record.path.write_text(json.dumps({**record.values, "best": "x", "epoch": "many"}))
        os.kill(os.getpid(), 35)
    if kind == "wipe":
        shutil.rmtree(planned.directory.parent.parent / "sweeps")
    if kind in ("hang", "stubborn"):
        if kind == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            (planned.directory / "ready").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            record.update(status="interrupted")
            raise
    if kind == "limited":
        record.update(status="interrupted", epoch=2, seconds=1.0)
        return
    if kind == "pruned":
        signal.signal(signal.SIGUSR2, lambda *_: (record.update(status="pruned", epoch=1), os._exit(140)))
        (planned.directory / "ready").touch()
        time.sleep(60)
    time.sleep(float(settings.get("sleep", 0)))
    complete(float(settings["seed"]))


def sweep_of(tmp_path, *, slots=2, view=None, pool=None, command=(), settings="", sweep_id="", **rules):
    return Sweep(
        pool or ProcessPool(slots=[{"SLOT": str(slot)} for slot in range(slots)]),
        SweepRecord.create(tmp_path / "sweeps", command=command, settings=settings, sweep_id=sweep_id),
        view or Lines(io.StringIO()),
        rules=Rules(**rules),
        run=fake,
    )


def finish(tmp_path, jobs, **options):
    with sweep_of(tmp_path, **options) as sweep:
        for each in jobs:
            sweep.add(each)
        while sweep.busy:
            sweep.poll(0.05)
    return sweep


def statuses(sweep):
    return [state.status for state in sweep.states]


def test_all_run_and_the_record_says_so(tmp_path):
    jobs = [job(tmp_path, "ok", seed=seed) for seed in range(5)]
    sweep = finish(tmp_path, jobs, command=["seed=0,1"], sweep_id="abc", settings="a: 1\n")
    assert statuses(sweep) == ["completed"] * 5 and sweep.exit_code == 0
    assert [state.value for state in sweep.states] == [0.0, 1.0, 2.0, 3.0, 4.0]
    (directory,) = (tmp_path / "sweeps").iterdir()
    assert directory.name.endswith("-abc") and (directory / "multirun.yaml").read_text() == "a: 1\n"
    record = json.loads((directory / "sweep.json").read_text())
    assert (record["exit_code"], record["command"], record["id"]) == (0, ["seed=0,1"], "abc")
    assert [each["id"] for each in record["jobs"]] == [each.id for each in jobs]
    assert {each["status"] for each in record["jobs"]} == {"completed"} and record["finished"]
    slots = {(each.directory / "tries").read_text().split()[0] for each in jobs}
    assert slots == {"0", "1"}


@pytest.fixture
def disk(monkeypatch):
    """Sets how much of the disk is free."""
    usage = namedtuple("usage", "total used free")
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))


def test_what_all_jobs_will_leave_on_the_disk_is_counted_once_for_each(tmp_path, disk):
    """Of four different jobs and one that is not asked for yet; one has left a part already, one is completed."""
    jobs = [job(tmp_path, "ok", seed=seed) for seed in range(4)]
    states = [JobState(number, each) for number, each in enumerate([*jobs, jobs[0]], start=1)]
    states[0].status, states[0].disk_bytes, states[3].status, states[4].same_as = (
        "running",
        10_000,
        "completed",
        states[0],
    )
    begun = jobs[1].directory / "checkpoints" / "ckpt-1.data"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(5_000))
    disk(35_000)
    assert disk_shortage(states, more=1) is None
    disk(34_999)
    said = disk_shortage(states, more=1)
    assert said.startswith("4 jobs will leave about 35 kB in ") and "/x, 10 kB each as job 1, " in said
    assert "35 kB free: make room" in said and "max_to_keep=1" in said


@pytest.mark.parametrize("free", [10**9, 0])
def test_a_disk_that_cannot_hold_the_sweep_is_told_once(tmp_path, disk, capsys, free):
    disk(free)
    finish(tmp_path, [job(tmp_path, "ok", seed=seed, disk_bytes=10_000) for seed in range(4)])
    assert capsys.readouterr().err.count("each as job") == (free == 0)


def test_equal_ids_run_once_and_share_the_result(tmp_path):
    one, bad = job(tmp_path, "ok", seed=1, sleep=0.3), job(tmp_path, "fail")
    sweep = finish(tmp_path, [one, bad, one, bad, one])
    assert statuses(sweep) == ["completed", "failed", "completed", "failed", "completed"]
    assert [state.value for state in sweep.states if state.job == one] == [1.0] * 3
    assert sweep.states[3].reason == "LookupError: broken" and sweep.states[4].same_as is sweep.states[0]
    assert len((one.directory / "tries").read_text().splitlines()) == 1
    with sweep_of(tmp_path) as later:  # one that comes when the first is over
        later.add(one)
        while later.busy:
            later.poll(0.05)
        assert later.add(one).status == "completed"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("kind", "retries", "status", "tries"),
    [("once", 0, "failed", 1), ("once", 1, "completed", 2), ("fail", 2, "failed", 3), ("wrong", 2, "failed", 1)],
)
def test_retries(tmp_path, kind, retries, status, tries):
    bad = job(tmp_path, kind, seed=3)
    sweep = finish(tmp_path, [bad, job(tmp_path, "ok")], retries=retries)
    assert statuses(sweep) == [status, "completed"] and sweep.states[0].tries == tries
    lines = (bad.directory / "tries").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["False", "True", "True"][:tries]
    assert sweep.exit_code == (status == "failed")


def test_the_line_that_failed_stands_below_the_reason(tmp_path, capsys):
    """Where a run's own record says what failed, and where the process alone does."""
    sweep = finish(tmp_path, [job(tmp_path, "fail"), job(tmp_path, "unreadable")], view=Lines())
    lines = capsys.readouterr().err.splitlines()
    for state, reason in zip(sweep.states, ("LookupError: broken", "OSError: of no record"), strict=True):
        found = next(number for number, line in enumerate(lines) if line.endswith(reason))
        assert re.fullmatch(
            rf"  \S*test_sweep\.py:\d+, in fake: raise {state.reason.partition(':')[0]}.*", lines[found + 1]
        )
    stream = io.StringIO()
    print_results(sweep.states, stream)
    assert len(re.findall(r"^job \d failed: .*\n  \S*test_sweep\.py:\d+, in fake", stream.getvalue(), re.M)) == 2


def test_a_process_that_vanishes_has_failed_and_its_record_says_so(tmp_path):
    lost = job(tmp_path, "vanish")
    sweep = finish(tmp_path, [lost])
    assert sweep.states[0].status == "failed" and "exit code 0" in sweep.states[0].reason
    record = Record(lost.directory).read()
    assert record["status"] == "failed" and record["error"]["type"] == "ProcessDied" and record["finished"]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("garble", "failed", "ProcessDied: its process ended at once with exit code 0"),
        ("odd", "failed", "ProcessDied: killed by signal 35"),
        ("wipe", "completed", None),
    ],
)
def test_what_a_job_breaks_is_its_own(tmp_path, kind, status, reason, capsys):
    jobs = [job(tmp_path, kind), job(tmp_path, "ok", seed=4, sleep=1)]
    sweep = finish(tmp_path, jobs)
    assert statuses(sweep) == [status, "completed"] and sweep.states[0].reason == reason
    assert ("sweep.json cannot be written" in capsys.readouterr().err) == (kind == "wipe")


def test_equal_runs_of_other_names_are_runs_of_their_own(tmp_path):
    one = job(tmp_path, "ok", seed=1)
    elsewhere = replace(one.make_run(), directory=tmp_path / "y" / one.directory.name)
    typed = ("kind=ok", "seed=1", "name=y")
    other = replace(one, overrides=typed, directory=elsewhere.directory, make_run=lambda: elsewhere)
    sweep = finish(tmp_path, [one, other])
    assert statuses(sweep) == ["completed"] * 2 and one.id == other.id
    assert all((each.directory / "run.json").exists() for each in (one, other))


def test_an_error_in_the_sweep_itself_lets_what_runs_save(tmp_path):
    jobs = [job(tmp_path, "hang")]
    sweep = sweep_of(tmp_path)

    def break_down():
        with sweep:
            sweep.add(jobs[0])
            while not (jobs[0].directory / "ready").exists():
                sweep.poll(0.05)
            raise LookupError

    with pytest.raises(LookupError):
        break_down()
    assert Record(jobs[0].directory).read()["status"] == "interrupted" and statuses(sweep) == ["interrupted"]


@pytest.mark.parametrize("kind", ["hang", "stubborn"])
def test_a_job_that_takes_too_long_is_ended(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("src.sweeps.sweep.GRACE_SECONDS", 0.5)
    slow = job(tmp_path, kind)
    sweep = finish(tmp_path, [slow, job(tmp_path, "ok", seed=2)], job_timeout_seconds=2.0)
    assert statuses(sweep) == ["failed", "completed"], [s.reason for s in sweep.states]
    assert sweep.states[0].reason == "TimeoutError: no end after job_timeout_seconds=2"
    assert Record(slow.directory).read()["error"]["type"] == "TimeoutError"


def test_on_failure_stop_ends_the_others_and_starts_no_more(tmp_path):
    jobs = [job(tmp_path, "hang"), job(tmp_path, "fail", sleep=1), job(tmp_path, "ok", seed=5)]
    sweep = finish(tmp_path, jobs, on_failure="stop")
    assert statuses(sweep) == ["interrupted", "failed", "not started"] and sweep.exit_code == 1
    assert Record(jobs[0].directory).read()["status"] == "interrupted" and not jobs[2].directory.exists()


def test_a_run_that_stops_by_its_own_time_limit_has_not_failed(tmp_path):
    sweep = finish(tmp_path, [job(tmp_path, "limited")])
    assert statuses(sweep) == ["interrupted"] and sweep.exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_jobs_save_and_starts_no_more(tmp_path, number, capsys):
    jobs = [job(tmp_path, "ok", seed=9), job(tmp_path, "hang"), job(tmp_path, "hang", seed=2), job(tmp_path, "ok")]
    with sweep_of(tmp_path) as sweep:
        for each in jobs:
            sweep.add(each)
        while not all((each.directory / "ready").exists() for each in jobs[1:3]):
            sweep.poll(0.05)
        os.kill(os.getpid(), number)
        while sweep.busy:
            sweep.poll(0.05)
        assert sweep.stopped and sweep.free_slots == 0
    assert statuses(sweep) == ["completed", "interrupted", "interrupted", "not started"]
    assert sweep.exit_code == 128 + number and "2 running jobs save and end" in capsys.readouterr().err
    assert signal.getsignal(number) not in (sweep._on_signal,)
    again = finish(tmp_path, [jobs[0], job(tmp_path, "ok")])
    assert statuses(again) == ["completed", "completed"]


def test_a_job_is_pruned(tmp_path):
    bad = job(tmp_path, "pruned")
    with sweep_of(tmp_path) as sweep:
        state = sweep.add(bad)
        while not (bad.directory / "ready").exists():
            sweep.poll(0.05)
        sweep.prune(state)
        while sweep.busy:
            sweep.poll(0.05)
    assert state.status == "pruned" and sweep.exit_code == 0


def test_a_job_that_another_process_runs_is_waited_for_and_the_others_go_first(tmp_path):
    jobs = [job(tmp_path, "ok", seed=seed) for seed in range(3)]
    jobs[0].lock.parent.mkdir(parents=True)
    with jobs[0].lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def complete_elsewhere():
            while not all(Record(each.directory).read() for each in jobs[1:]):
                time.sleep(0.02)
            record = {"status": "completed", "config_hash": jobs[0].config_hash, "epoch": 4, "seconds": 1.0}
            best = {"value": 7.0, "epoch": 1, "step": 1}
            Record(jobs[0].directory).update(**record, best=best, fingerprints=fingerprints(IDENTITY))
            fcntl.flock(held, fcntl.LOCK_UN)

        thread = threading.Thread(target=complete_elsewhere)
        thread.start()
        stream = io.StringIO()
        sweep = finish(tmp_path, jobs, slots=1, view=Lines(stream))
        thread.join()
    assert statuses(sweep) == ["reused", "completed", "completed"] and sweep.states[0].value == 7.0
    assert not (jobs[0].directory / "tries").exists() and "in use by an unknown process" in stream.getvalue()


def test_what_is_completed_is_reused_at_once(tmp_path):
    jobs = [job(tmp_path, "ok", seed=seed) for seed in range(2)]
    finish(tmp_path, jobs)
    done = [job(tmp_path, "ok", seed=seed, action="reuse") for seed in range(2)]
    sweep = finish(tmp_path, done)
    assert statuses(sweep) == ["reused", "reused"] and [state.value for state in sweep.states] == [0.0, 1.0]
    assert all(len((each.directory / "tries").read_text().splitlines()) == 1 for each in jobs)


def test_two_records_of_one_second_do_not_collide(tmp_path):
    for _ in range(5):
        finish(tmp_path, [], sweep_id="same")
    assert len(list((tmp_path / "sweeps").glob("*/sweep.json"))) == 5


def states_of(*rows):
    return [
        JobState(number, job("f", "ok", seed=seed, mode=mode), status=status, value=value, epoch=epoch, seconds=seconds)
        for number, (seed, mode, status, value, epoch, seconds) in enumerate(rows, start=1)
    ]


def test_the_best_comes_first_and_what_has_no_result_last():
    rows = [(0, "max", "failed", None, 0, 0.0), (1, "max", "completed", 0.5, 4, 1.0), (2, "max", "reused", 0.9, 4, 1.0)]
    rows += [(3, "max", "interrupted", 0.95, 2, 1.0)]
    assert [state.number for state in ranked(states_of(*rows))] == [3, 2, 4, 1]
    lowest = [(seed, "min", "completed", value, 4, 1.0) for seed, value in enumerate([0.3, 0.1, 0.2])]
    assert [state.value for state in ranked(states_of(*lowest))] == [0.1, 0.2, 0.3]


def test_tables_are_plain_where_there_is_no_terminal():
    states = states_of((0, "max", "completed", 0.25, 4, 12.34), (1, "max", "failed", None, 1, 0.5))
    states[1].reason, states[1].tries = "LookupError: \x1b[1mbroken\nin\x1b[0m two lines" + " and words" * 80, 2
    states[1].line = "mine.py:7, in build: x = y[0]"
    stream = io.StringIO()
    print_results(states, stream)
    head, first, second, why, where = stream.getvalue().splitlines()
    assert head.split() == ["job", "seed", "val/accuracy", "epoch", "status", "seconds", "directory"]
    assert first.split()[:6] == ["1", "0", "0.250000", "4/4", "completed", "12.3"] and "\x1b" not in first
    assert second.split()[:4] == ["2", "1", "1/4", "failed"]
    assert where == "  mine.py:7, in build: x = y[0]"
    assert why.startswith("job 2 failed: LookupError: broken in two lines and words") and why.endswith(
        (" and ...", " words ...")
    )
    assert not any(line.endswith(" ") for line in (head, first, second))


def test_a_plan_in_words(tmp_path):
    stream = io.StringIO()
    again = job(tmp_path, "ok", seed=1)
    print_jobs(
        [job(tmp_path, "ok", action="reuse"), again, again, job(tmp_path, "ok", seed=2, action="resume")], stream
    )
    assert [" ".join(line.split()[2:-1]) for line in stream.getvalue().splitlines()[1:]] == [
        "is completed",
        "starts",
        "is job 2",
        "resumes",
    ]


def test_words_for_what_is_left():
    states = states_of((0, "max", "completed", 0.5, 4, 8.0), (1, "max", "running", 0.5, 2, 4.0))
    states += states_of((2, "max", "waiting", None, 0, 0.0))
    assert remaining_seconds(states, slots=2) == 8.0  # a whole run of 4 epochs of 2 s
    assert remaining_seconds(states, slots=1) == 12.0
    assert summary(states, slots=2) == "1 completed, 1 running, 1 waiting; about 8 s left"
    assert states[1].remaining_seconds == 4.0 and states[2].remaining_seconds is None
    assert [duration(seconds) for seconds in (0.4, 59, 185, 7800)] == ["0 s", "59 s", "3 min 5 s", "2 h 10 min"]
    assert swept_keys(states) == ["seed"]


def test_a_second_signal_ends_the_sweep_at_once_and_its_record_says_so(tmp_path):
    pid = os.fork()
    if not pid:
        with sweep_of(tmp_path, slots=1) as sweep:
            for seed in (0, 1):
                sweep.add(job(tmp_path, "stubborn", seed=seed))
            while not list(tmp_path.glob("x/*/ready")):
                sweep.poll()
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                sweep.poll()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGTERM
    (path,) = tmp_path.rglob("sweep.json")
    said = json.loads(path.read_text())
    assert said["exit_code"] == 128 + signal.SIGTERM and said["finished"]
    assert [job["status"] for job in said["jobs"]] == ["interrupted", "not started"]
