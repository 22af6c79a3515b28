"""A sweep as it is typed: what is said first, where its record lies, and that its runs are those typed alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.common.machine import visible_gpus
from src.config.checks import ConfigError
from src.config.compose import compose
from src.runs.record import Record
from src.runs.run import Run
from src.sweeps import plan as planning
from src.sweeps.local import LocalOptions, LocalRunner, default_start
from src.sweeps.plan import Composer, estimated_seconds, plan, plan_one, sweep_id, sweeps_folder
from tests.support.helpers import DIGITS, run_module, train

SWEEP = Composer(hydra_overrides=("hydra.mode=MULTIRUN",))
QUICK = (
    *DIGITS,
    "epochs=1",
    "callback.export=null",
    "callback.images=null",
    "callback.hparams=null",
    "callback.summaries=null",
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def complete(job, *, epochs=4, seconds=8.0):
    """What a completed run of this job leaves for others to know."""
    Record(job.directory).update(
        status="completed", config_hash=job.config_hash, epoch=epochs, seconds=seconds, best={"value": 0.5}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_jobs": 0}, "hydra.launcher.n_jobs is 0; it must be an integer at least 1, or null"),
        ({"n_jobs": "two"}, "n_jobs is 'two'"),
        ({"start": "thread"}, "start is 'thread'; it must be one of fork, spawn, or null"),
        ({"on_failure": "panic"}, "one of continue, stop"),
        ({"retries": -1}, "retries is -1"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"job_timeout_seconds": 0}, "job_timeout_seconds is 0; it must be a number above 0, or null"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError) as error:
        LocalOptions(**options).check()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("variable", "gpus"), [(None, []), ("", []), ("-1", []), ("0,2", ["0", "2"]), ("GPU-8f,1", ["GPU-8f", "1"])]
)
def test_gpus_are_counted_without_tensorflow(monkeypatch, variable, gpus):
    monkeypatch.setenv("PATH", "")
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == gpus


def test_each_slot_has_a_gpu_and_its_children_are_spawned(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    local = LocalRunner(compose([*DIGITS, "hydra.mode=MULTIRUN"]), LocalOptions())
    assert local.n_jobs == 2 and default_start() == "spawn"
    assert [local._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["3", "5", "3"]
    assert local._environment(0)["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_the_record_lies_beside_the_runs_or_above_them():
    jobs = plan([[*DIGITS, "seed=0"], [*DIGITS, "seed=1"]], SWEEP)
    named = plan([[*DIGITS, "name=a"], [*DIGITS, "name=b"]], SWEEP)
    assert sweeps_folder(jobs) == Path("outputs/digits/sweeps") and sweeps_folder(named) == Path("outputs/sweeps")
    assert sweep_id(jobs) == sweep_id(jobs[::-1]) != sweep_id(jobs[:1])


def test_the_time_is_estimated_from_runs_of_the_same_model():
    jobs = plan([[*DIGITS, "epochs=4", f"seed={seed}"] for seed in range(4)], SWEEP)
    assert estimated_seconds(jobs, slots=2) is None
    complete(plan_one([*DIGITS, "epochs=4", "seed=9"], SWEEP), seconds=8.0)  # 2 s an epoch
    assert estimated_seconds(jobs, slots=2) == 16.0 and estimated_seconds(jobs[:1], slots=2) == 8.0
    assert estimated_seconds([], slots=2) == 0.0


def test_all_that_is_undecided_is_said_at_once_before_anything_runs():
    jobs = plan([[*DIGITS, f"seed={seed}"] for seed in range(3)], SWEEP)
    for job in jobs[:2]:
        Record(job.directory).update(id=job.id, status="completed", config_hash=job.config_hash, fingerprints={})
    with pytest.raises(Exception, match=r"job 1 of 3: .*stale=rerun .* \(and 1 jobs more\)"):
        plan([job.overrides for job in jobs], SWEEP)


@pytest.mark.parametrize(
    "typed",
    [
        ["seed=3", "optimizer.learning_rate=0.01"],
        ["hydra.sweep.dir=there/${name}", "seed=4"],
        ["hydra.sweep.subdir=${hydra.job.override_dirname}", "epochs=2"],
        ["hydra.sweep.subdir='${oc.select:seed}-${run_id:}'", "+loss.ignore_class=3"],
        ["name=other", "data.transforms.shift=null", "~callback.images"],
    ],
)
def test_a_planned_job_is_the_run_that_its_overrides_make(typed):
    hydra, others = (tuple(t for t in typed if t.startswith("hydra.") is own) for own in (True, False))
    composer = Composer(hydra_overrides=("hydra.mode=MULTIRUN", *hydra))
    run, (job,) = Run.of(composer.compose([*DIGITS, *others])), plan([[*DIGITS, *others]], composer)
    assert (job.config_hash, job.directory) == (run.config_hash, run.directory)
    assert (job.monitor, job.mode, job.epochs) == (run.cfg.monitor, run.cfg.mode, run.cfg.epochs)
    assert job.make_run() == run


def test_a_directory_of_the_same_id_is_found_under_another_label():
    (first,) = plan([[*DIGITS, "seed=0"]], SWEEP)
    other = first.directory.with_name(f"older-{first.id}")
    (other / ".hydra").mkdir(parents=True)
    jobs = plan([[*DIGITS, "seed=0"], [*DIGITS, "seed=1"]], SWEEP)
    assert jobs[0].directory == other and jobs[1].directory.name.startswith("cnn-")


def test_what_changes_from_one_moment_to_the_next_is_no_job(monkeypatch):
    monkeypatch.setenv("SEED", "one")
    (job,) = plan([[*DIGITS, "+loss.name=${oc.env:SEED}"]], SWEEP)
    monkeypatch.setenv("SEED", "two")
    with pytest.raises(ConfigError, match="changes from one moment to the next"):
        job.make_run()


def test_a_plan_that_takes_long_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(planning, "FIRST_SECONDS", 0.0)
    plan([[*DIGITS, f"seed={seed}"] for seed in range(3)], SWEEP)
    assert capsys.readouterr().err == "checking job 1 of 3\n"


def test_a_plan_names_the_job_that_is_wrong():
    jobs = [[*DIGITS, f"seed={seed}"] for seed in range(6)] + [[*DIGITS, "seed=-1"]]
    with pytest.raises(ConfigError, match="job 7 of 7: seed is -1"):
        plan(jobs, SWEEP)


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    single = train(*QUICK, "dry_run=true", cwd=tmp_path)
    assert single.returncode == 0 and single.stdout.startswith("start\noutputs/digits/cnn-")
    swept = train("--multirun", *QUICK, "seed=0,1,0", "dry_run=true", cwd=tmp_path)
    assert swept.returncode == 0 and "time: unknown" in swept.stderr, swept.stderr
    assert [line.split()[2:-1] for line in swept.stdout.splitlines()[1:]] == [
        ["starts"],
        ["starts"],
        ["is", "job", "1"],
    ]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_of_a_sweep_is_the_run_typed_alone(tmp_path):
    """Forked or spawned: the same directory, record and bits."""
    (tmp_path / "alone").mkdir()
    assert run_module("src.train", *QUICK, "seed=1", cwd=tmp_path / "alone").returncode == 0
    for start, seeds in {"fork": "0,1", "spawn": "1"}.items():
        (tmp_path / start).mkdir()
        command = ("--multirun", *QUICK, f"seed={seeds}", f"hydra.launcher.start={start}")
        result = train(*command, cwd=tmp_path / start)
        assert result.returncode == 0, result.stderr
        assert str(tmp_path) not in result.stdout and "completed" in result.stdout
        for directory in sorted((tmp_path / "alone" / "outputs" / "digits").glob("cnn-*")):
            same = tmp_path / start / directory.relative_to(tmp_path / "alone")
            ours, theirs = Record(same).read(), Record(directory).read()
            for key in (
                "id",
                "config_hash",
                "overrides",
                "best",
                "metrics",
                "fingerprints",
                "seed",
                "epochs",
                "monitor",
            ):
                assert ours[key] == theirs[key], key
            assert ours["environment"] == theirs["environment"]
            data = [
                [path.read_bytes() for path in sorted(run.glob("checkpoints/ckpt-*.data-*"))]
                for run in (same, directory)
            ]
            assert data[0] and data[0] == data[1]
            configs = [OmegaConf.load(run / ".hydra" / "config.yaml") for run in (same, directory)]
            assert configs[0] == configs[1]
            assert "epoch 1/1" in (same / "train.log").read_text()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sweep_over_names_keeps_its_record_above_them(tmp_path):
    result = train("--multirun", *QUICK, "name=a,b", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (record,) = tmp_path.glob("outputs/sweeps/*/sweep.json")
    values = json.loads(record.read_text())
    assert [Path(job["directory"]).parent.name for job in values["jobs"]] == ["a", "b"]
    assert (record.parent / "multirun.yaml").is_file() and values["exit_code"] == 0


def test_a_key_must_fit_the_options_of_its_own_job(tmp_path):
    """And not those of the default, which are none of the sweep's."""
    words = (*DIGITS, "optimizer.momentum=0.5", "dry_run=true")
    good = train("--multirun", *words, "optimizer=sgd,rmsprop", cwd=tmp_path)
    assert good.returncode == 0 and good.stdout.count("starts") == 2, good.stderr
    wrong = train("--multirun", *words, "optimizer=sgd,adam", cwd=tmp_path)
    assert wrong.returncode == 2 and "job 2 of 2: optimizer.momentum=0.5: there is no key" in wrong.stderr
