"""A study outlives its commands: nothing is lost or done twice, what fails is a failed trial, what lags is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from src.config.checks import ConfigError
from src.config.compose import CONFIG_DIR, compose
from src.runs.decision import StaleRun
from src.runs.provenance import fingerprints
from src.runs.record import Record
from src.sweeps import search as search_module
from src.sweeps.job_state import JobState
from src.sweeps.plan import plan_one
from src.sweeps.pool import Ended
from src.sweeps.record import SweepRecord
from src.sweeps.search import Search
from src.sweeps.session import EarlierTrial, Session
from src.sweeps.show import Lines
from src.sweeps.space import Space
from src.sweeps.study import PRUNED_AT, Method, SearchOptions, Study, read_trials
from src.sweeps.sweep import Sweep
from tests.support.helpers import DIGITS, ROOT, run_module, train

RATE = "optimizer.learning_rate"
SPACE = Space.parse([f"{RATE}=tag(log,interval(1e-4,1e-1))", "batch_size=16,32"])
GRID = {"_target_": "optuna.samplers.GridSampler"}
SMALL = ("data=digits", "model=mlp", "model.hidden_units=[8]", "optimizer=sgd", "schedule=constant")
LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
FIT_ALL = sorted(CONFIG_DIR.glob("search/*.yaml"))


def opened(path: Path, space: Space = SPACE, mode: str = "max", **options) -> Study:
    return Study(path, space=space, method=Method(SearchOptions(**options), space), mode=mode)


def journal(project: Path) -> Path:
    """The one study's."""
    (path,) = project.glob("outputs/digits/studies/*.journal")
    return path


def load(path: Path) -> optuna.Study:
    """As a user opens it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name=path.stem, storage=storage)


def states(trials) -> list[str]:
    return [trial.state.name for trial in trials]


# The study itself


def test_a_continued_study_suggests_what_it_would_have(tmp_path):
    straight, parts = tmp_path / "a.journal", tmp_path / "b.journal"
    study = opened(straight)
    for number in range(14):  # more than the random ones that TPE begins with
        study.tell(study.ask(), "complete", number % 5)
    for number in range(14):
        study = opened(parts)  # a new process each time
        study.tell(study.ask(), "complete", number % 5)
    assert [trial.params for trial in read_trials(parts)] == [trial.params for trial in read_trials(straight)]
    assert len({trial.params[RATE] for trial in read_trials(parts)}) == 14
    assert load(parts).best_value == 4


def test_what_a_dead_process_was_running_goes_on_as_the_same_trial(tmp_path):
    study = opened(tmp_path / "a.journal")
    asked = study.ask()
    study.report(asked, [(1, 0.5)])
    half = study._study.ask()  # killed before it had all its values
    half.suggest_categorical("batch_size", ["16", "32"])
    again = opened(tmp_path / "a.journal")
    left = [again.resume(trial) for trial in again.trials]
    assert [trial.number for trial in left] == [0, 1] and left[0].params == asked.params
    assert left[1].params.keys() == {RATE, "batch_size"} and left[1].params["batch_size"] == half.params["batch_size"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.report(left[0], [(1, 0.5), (2, 0.75)])
    for trial in left:
        again.tell(trial, "complete", 1.0)
    assert states(again.trials) == ["COMPLETE"] * 2 and again.trials[0].intermediate_values == {1: 0.5, 2: 0.75}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "torn", ['{"op_code":4,"worker_id":', "\0" * 60, "\0" * 20 + "\n", '{"op_code":4,"wor\n{"op\n']
)
def test_a_torn_journal_is_mended(tmp_path, torn):
    path = tmp_path / "a.journal"
    opened(path).ask()
    whole = path.read_text()
    path.write_text(whole + torn)
    os.symlink(path, f"{path}.lock")  # held by the process that was killed
    if not torn.endswith("\n"):  # else readers say that it is damaged
        assert len(read_trials(path)) == 1 and path.read_text() == whole + torn
    began = time.monotonic()
    study = opened(path)
    study.ask()
    assert len(load(path).trials) == 2 and time.monotonic() - began < 10


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", ["GridSampler", "BruteForceSampler"])
def test_a_finite_space_is_run_through_once(tmp_path, sampler):
    space = Space.parse(["a=range(0,0.3,0.1)", "b=x,null"])
    options = {"n_trials": 50, "sampler": {"_target_": f"optuna.samplers.{sampler}", "seed": 1}}
    assert Method(SearchOptions(**options), space).n_trials == 6
    for _ in range(6):  # a new process each time
        study = opened(tmp_path / "a.journal", space, **options)
        assert not study.exhausted
        study.tell(study.ask(), "complete", 0.0)
    assert study.exhausted and states(study.trials) == ["COMPLETE"] * 6
    assert len({tuple(space.overrides(trial.params)) for trial in study.trials}) == 6


def test_the_pruner_sees_each_epoch_once(tmp_path):
    pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.5, "n_warmup_steps": 2}
    study = opened(tmp_path / "a.journal", pruner=pruner)
    trial = study.ask()
    assert not study.report(trial, [(1, 0.1)]) and not study.report(trial, [(1, 0.1)])
    assert study.report(trial, [(1, 0.1), (2, 0.2), (3, 0.9)])
    study.tell(trial, "pruned")
    assert states(study.trials) == ["PRUNED"] and study.best is None


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials is 0; it must be an integer at least 1"),
        ({"timeout_seconds": -1}, "hydra.sweeper.timeout_seconds is -1"),
        ({"sampler": None}, "hydra.sweeper.sampler is null; it must be one of .*tpe.*, or a mapping with a _target_"),
        ({"sampler": "randm"}, "hydra.sweeper.sampler is 'randm'; .* Did you mean random"),
        ({"pruner": "random"}, "hydra.sweeper.pruner is 'random'; it must be one of .*hyperband.*median"),
        ({"pruner": "patient"}, r"hydra.sweeper.pruner \(optuna.*wrapped_pruner"),
        ({"params": "a"}, "hydra.sweeper.params is 'a'"),
        ({"sampler": {"_target_": "optuna.samplers.TPE"}}, "hydra.sweeper.sampler._target_ is .* has no TPE"),
        ({"sampler": {"_target_": "optuna.pruners.NopPruner"}}, "which is no optuna sampler"),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "sede": 1}}, r"hydra.sweeper.sampler \(optuna.*sede"),
        ({"pruner": {"_target_": "optuna.pruners.PatientPruner"}}, r"hydra.sweeper.pruner \(optuna.*wrapped_pruner"),
        ({"sampler": GRID}, rf"a grid has no end with {RATE}=tag\(log,interval\(1e-4,1e-1\)\); give range or choice"),
        ({"sampler": {**GRID, "search_space": {"a": [1]}}}, f"search_space must have {RATE}, batch_size"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    def check(options: SearchOptions) -> None:
        options.check()
        Method(options, SPACE)

    with pytest.raises(ConfigError, match=message):
        check(SearchOptions(**options))


def test_options_are_those_of_the_file():
    content = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "hydra" / "sweeper" / "optuna.yaml"))
    values = {key: value for key, value in content.items() if not key.startswith("_")}
    assert values == {field.name: getattr(SearchOptions(), field.name) for field in fields(SearchOptions)}


# A command's search, without running anything


def searched(*typed: str, **options) -> Search:
    settings = [f"hydra.sweeper.{key}={value}" for key, value in options.items()]
    cfg = compose(["hydra/sweeper=optuna", *settings, *[t for t in typed if t.startswith(("dry_run", "search"))]])
    given = OmegaConf.to_container(cfg.hydra.sweeper)
    return Search(cfg, SearchOptions(**{k: v for k, v in given.items() if not k.startswith("_")}), [*DIGITS, *typed])


@pytest.mark.sample(1)
@pytest.mark.parametrize("path", FIT_ALL, ids=lambda path: path.stem)
def test_every_search_fits_its_partners(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = compose([f"search={path.stem}"]).hydra
    assert settings.sweeper._target_.endswith("OptunaSweeper") and settings.launcher._target_.endswith("LocalLauncher")
    searched(f"search={path.stem}", "dry_run=true").run(None)
    assert "more to run" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_a_name_stands_for_what_optuna_calls_so():
    """With a seed where one is taken, as the default has; so the default's name is the same study."""
    assert SearchOptions(sampler="tpe", pruner="nop") == SearchOptions()
    assert SearchOptions(sampler="random").sampler == {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    names = {"successive_halving": "SuccessiveHalvingPruner", "median": "MedianPruner", "Hyperband": "HyperbandPruner"}
    for name, found in names.items():
        assert SearchOptions(pruner=name).pruner == {"_target_": f"optuna.pruners.{found}"}
    for what in ("sampler", "pruner"):
        assert searched(f"{RATE}=0.1,0.2", **{what: "random" if what == "sampler" else "median"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hydra/sweeper=optuna hydra/sweeper/sampler=random", "write hydra.sweeper.sampler=random"),
        ("hydra.sweeper.sampler=random", "with hydra/sweeper=optuna, write hydra.sweeper.sampler=random"),
        ("hydra.sweeper.pruner=median", "with hydra/sweeper=optuna, write hydra.sweeper.pruner=median"),
        (
            "hydra/sweeper=optuna hydra.sweeper.sampler.seed=3 hydra.sweeper.sampler=random",
            r"stands for the whole of hydra.sweeper.sampler; .*=\{_target_:optuna.samplers.<class>,seed:...\}",
        ),
    ],
)
def test_a_name_in_another_place_is_answered_with_the_right_words(words, message):
    with pytest.raises(ConfigError, match=message):
        compose(words.split())


def test_what_a_study_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate, size = f"{RATE}=interval(0.001,0.1)", "batch_size=16,32"
    same = [
        searched(rate, size, "epochs=3"),
        searched("epochs=3", size, rate, "wait=true", "log_every_steps=3", n_trials=7, timeout_seconds=9),
        searched(rate, size, "epochs=3", "seed=0", "optimizer=adam"),
    ]
    others = [
        searched(rate, size, "epochs=4"),
        searched(rate, "batch_size=16,64", "epochs=3"),
        searched(rate, size, "epochs=3", "monitor=val/loss", "mode=min"),
        searched(rate, size, "epochs=3", **{"pruner._target_": "optuna.pruners.MedianPruner"}),
    ]
    assert len({search._path for search in same}) == 1
    assert len({search._path for search in (same[0], *others)}) == 1 + len(others)
    assert same[0]._path.parent == Path("outputs/digits/studies")
    assert searched(rate, "name=a,b")._path.parent == Path("outputs/studies")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            (),
            "there is nothing to search: type sweeps, such as .* search=..., or give hydra.sweeper.params",
        ),
        ((f"{RATE}=interval(0,0.1)",), rf"{RATE}=interval\(0,0.1\): {RATE} is 0.0; it must be a number above 0"),
        (("model.filters=range(4,9,4)", "optimizer=adam,adma"), "optimizer=adam,adma: .*Did you mean adam"),
        (("model.dropout=0.1,a",), "model.dropout=0.1,a: model.dropout=a: model.dropout is 'a'"),
        (("model.depth=1,2",), "there is no key 'model.depth'"),
        (("model.filters=interval(4.5,9)",), "model.filters is 4.5"),
        (("batch_size=16,32,0",), "batch_size=16,32,0: batch_size is 0"),
    ],
)
def test_the_whole_space_is_checked_first(typed, message):
    with pytest.raises(ConfigError, match=message):
        searched(*typed)


def test_dry_run_says_what_is_left(tmp_path):
    command = ("--multirun", "hydra/sweeper=optuna", *DIGITS, "model.filters=interval(4,16)", "dry_run=true")
    result = train(*command, "hydra.sweeper.sampler.seed=${seed}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    space, study = result.stdout.splitlines()
    assert space == "model.filters: 4 to 16, whole numbers"
    assert re.fullmatch(r"study outputs/digits/studies/[0-9a-f]{8}\.journal: 20 more to run", study)
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_command_says_what_to_install(tmp_path):
    (tmp_path / "optuna.py").write_text("raise ModuleNotFoundError('No module named optuna', name='optuna')")
    command = ("--multirun", "hydra/sweeper=optuna", *DIGITS, "seed=0,1")
    result = run_module("src.train", *command, cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert result.returncode == 2 and f"-e '{ROOT}[search]'" in result.stderr


# A command's part of a study, with a sweep that is told what happens


class FakeSweep:
    """Jobs go in; the test says what becomes of them."""

    exit_code = 0

    def __init__(self):
        self.states, self.pruned, self.finished = [], [], []

    def add(self, job, *, earlier=None):
        self.states.append(JobState(number=len(self.states) + 1, job=job))
        if earlier:
            self.end(self.states[-1], earlier)
        return self.states[-1]

    def end(self, state, status, value=None):
        state.status, state.value = status, value
        self.finished.append(state)

    def poll(self, timeout_seconds):
        finished, self.finished = self.finished, []
        return finished

    def writes_record(self, state, record):
        return record["process"]["pid"] == os.getpid()

    def prune(self, state):
        self.pruned.append(state.number)


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session of a study that prunes below 0.5, and its fake sweep."""
    monkeypatch.chdir(tmp_path)
    space = Space.parse([*DIGITS, "seed=range(0,100)"])
    pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.5}
    study = opened(tmp_path / "a.journal", space, pruner=pruner)
    sweep = FakeSweep()
    return study, sweep, Session(study, sweep), lambda trial: plan_one(space.overrides(trial.params))


def measure(job, *values, pid=None):
    """What a run has left behind after these epochs."""
    record = Record(job.directory)
    record.update(status="running", process={"pid": pid or os.getpid()}, config_hash=job.config_hash)
    record.history_path.unlink(missing_ok=True)
    for epoch, value in enumerate(values, start=1):
        record.append_epoch({"epoch": epoch, job.monitor: value})
    return record


def test_a_run_is_pruned_once_it_listens(session):
    study, sweep, now, planned = session
    job = planned(trial := study.ask())
    now.add(trial, job)
    measure(job, 0.1, pid=1)  # of an earlier process
    now.poll(timeout_seconds=0)
    assert sweep.pruned == [] and study.trials[0].intermediate_values == {}
    measure(job, 0.9, None)
    now.poll(timeout_seconds=0)
    assert sweep.pruned == [] and study.trials[0].intermediate_values == {1: 0.9}
    measure(job, 0.9, None, 0.1)
    now.poll(timeout_seconds=0)
    assert sweep.pruned == [1] and study.trials[0].user_attrs[PRUNED_AT] == 3
    sweep.end(sweep.states[0], "pruned")
    now.poll(timeout_seconds=0)
    assert states(study.trials) == ["PRUNED"] and not now.pending and now.exit_code == 0
    assert study.trials[0].user_attrs["id"] == job.id


@pytest.mark.parametrize(
    ("status", "value", "state", "exit_code"),
    [
        ("completed", 0.7, "COMPLETE", 0),
        ("completed", None, "FAIL", 1),  # each epoch was NaN
        ("reused", 0.7, "COMPLETE", 0),
        ("failed", 0.7, "FAIL", 1),
        ("pruned", 0.7, "PRUNED", 0),
        ("interrupted", 0.7, "RUNNING", 0),
        ("not started", None, "RUNNING", 0),
    ],
)
def test_what_becomes_of_a_run_is_what_becomes_of_its_trial(session, status, value, state, exit_code):
    study, sweep, now, planned = session
    job = planned(trial := study.ask())
    now.add(trial, job)
    measure(job, 0.2, 0.7)
    sweep.end(sweep.states[0], status, value)
    now.poll(timeout_seconds=0)
    assert states(study.trials) == [state] and not now.pending and now.exit_code == exit_code
    assert study.trials[0].value == (0.7 if state in ("COMPLETE", "PRUNED") else None)
    assert bool(study.trials[0].intermediate_values) == (state != "RUNNING") and sweep.pruned == []


@pytest.mark.parametrize(("action", "state"), [("resume", "PRUNED"), ("reuse", "RUNNING")])
def test_a_trial_whose_pruning_was_not_told_is_not_gone_on_with(session, action, state):
    study, _, now, planned = session
    trial = study.ask()
    trial.set_user_attr(PRUNED_AT, 2)
    (left,) = study.trials
    now.add_earlier(EarlierTrial(left, study.resume(left), replace(planned(trial), action=action)))
    now.poll(timeout_seconds=0)
    assert states(study.trials) == [state] and bool(now.pending) == (state == "RUNNING")


def test_earlier_trials_are_shown_and_not_run(session):
    study, sweep, now, planned = session
    outcomes = [("complete", 0.8), ("pruned", None), ("failed", None)]
    for outcome, value in outcomes:
        study.tell(study.ask(), outcome, value)
    for trial in study.trials:
        now.add_earlier(EarlierTrial(trial, None, planned(trial)))
    now.poll(timeout_seconds=0)
    assert [state.status for state in sweep.states] == ["reused", "pruned", "failed"] and not now.pending
    assert sweep.states[0].value == 0.8 and now.exit_code == 0


# A search with a pool in which each job ends at once: what its run has recorded is the test's


class InstantPool:
    """A pool with the five members that a sweep asks for."""

    def __init__(self, outcome, slots):
        self._outcome, self._slots, self._ended = outcome, slots, []

    @property
    def free_slots(self):
        return self._slots - len(self._ended)

    def start(self, key, function, run, **kwargs):
        seed, error = str(run.cfg.seed), None
        process = {"pid": int(key), "host": "elsewhere"}
        record = Record(run.directory)
        record.update(status="running", process=process, config_hash=run.config_hash, id=run.id)
        record.update(fingerprints=fingerprints(run.identity))
        try:
            value = self._outcome(seed)
            record.update(status="completed", best={"value": value, "epoch": 1, "step": 1}, epoch=1)
        except Exception as raised:
            error = {"type": type(raised).__name__, "message": str(raised)}
            record.update(status="failed", error=error)
        self._ended.append(Ended(key, process, int(error is not None), error))

    def wait(self, *, timeout_seconds):
        ended, self._ended = self._ended, []
        return ended

    def send(self, key, number):
        pass

    def close(self):
        pass


class InstantRunner:
    """What a search asks of the local launcher, over such a pool."""

    def __init__(self, outcome, slots=1):
        self._outcome, self._slots = outcome, slots

    def open(self, *, folder, sweep_id, job_count):
        record = SweepRecord.create(folder, sweep_id=sweep_id)
        return Sweep(InstantPool(self._outcome, self._slots), record, Lines(), job_count=job_count)


@pytest.mark.exhaustive
def test_a_search_is_continued_and_its_failed_trials_are_not_retried(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = []

    def outcome(seed):
        begun.append(seed)
        if seed in "135":
            raise RuntimeError("broken")
        return 0.5

    def run(n_trials):
        found = searched("seed=range(0,9)", n_trials=n_trials, **{"sampler._target_": GRID["_target_"]})
        return found.run(InstantRunner(outcome, slots=3))

    run(4)
    assert len(begun) == 4
    run(9)
    assert sorted(begun) == list("012345678")
    trials = load(journal(tmp_path)).trials
    assert len(trials) == 9 and states(trials).count("FAIL") == 3 and states(trials).count("COMPLETE") == 6
    capsys.readouterr()
    assert run(9) == 0 and len(begun) == 9
    output = capsys.readouterr()
    assert "RuntimeError: broken" in output.out and "6 completed before, 3 failed: " in output.err
    assert "best: val/accuracy 0.500000" in output.err


def test_a_suggestion_made_twice_runs_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = []

    def outcome(seed):
        begun.append(seed)
        return {"0": 0.5}[seed]

    found = searched("seed=0,1", n_trials=6, **{"sampler._target_": "optuna.samplers.RandomSampler"})
    assert found.run(InstantRunner(outcome, slots=4)) == 1
    assert sorted(begun) == ["0", "1"]
    trials = load(journal(tmp_path)).trials
    assert {(trial.params["seed"], trial.state.name) for trial in trials} == {("0", "COMPLETE"), ("1", "FAIL")}
    assert len(trials) == 6


def test_a_finished_trial_is_measured_on_the_test_split_where_a_later_command_asks_for_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    begun = []

    def outcome(seed):
        begun.append(seed)
        return 0.5

    def run(*more):
        return searched("seed=0,1", *more, **{"sampler._target_": GRID["_target_"]}).run(InstantRunner(outcome))

    assert run() == 0
    (first, other) = sorted(tmp_path.glob("outputs/digits/*/run.json"))
    for path in (first, other):
        (path.parent / "checkpoints").mkdir()
    Record(other.parent).update(test={"test/loss": 0.5})
    begun.clear()
    assert run() == 0 and begun == []
    assert run("evaluate_test=true") == 0 and [f"s{seed}" in first.parent.name for seed in begun] == [True]
    assert states(load(journal(tmp_path)).trials) == ["COMPLETE"] * 2


def test_values_that_do_not_go_together_are_a_failed_trial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def wrong(overrides, composer):
        if "model=unet" in overrides and "seed=1" in overrides:
            raise ConfigError("these do not go together")
        return plan_one(overrides, composer)

    monkeypatch.setattr(search_module, "plan_one", wrong)
    found = searched("model=cnn,unet", "seed=0,1", **{"sampler._target_": GRID["_target_"]})
    assert found.run(InstantRunner(lambda seed: 0.5)) == 1
    assert sorted(states(load(journal(tmp_path)).trials)) == ["COMPLETE"] * 3 + ["FAIL"]
    assert "failed: these do not go together" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_trials_of_other_code_are_asked_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(stale, n_trials=2):
        found = searched("seed=0,1,2", *[] if stale == "ask" else [f"stale={stale}"], n_trials=n_trials)
        OmegaConf.update(found._config, "stale", stale)
        return found.run(InstantRunner(lambda seed: 0.5))

    assert run("ask") == 0
    for path in tmp_path.glob("outputs/digits/*/run.json"):
        Record(path.parent).update(fingerprints={"code": {"old.py": "1"}, "data": {}})
    with pytest.raises(StaleRun, match="stale=rerun"):
        run("ask", n_trials=3)
    assert run("reuse", n_trials=3) == 0
    assert len(load(journal(tmp_path)).trials) == 3
    assert run("rerun") == 0
    old, new = sorted(tmp_path.glob("outputs/digits/studies/*.journal"), key=lambda path: -len(path.name))
    assert new.stem == old.stem.partition(".")[0] and len(load(new).trials) == 2


def test_another_launcher_is_refused(tmp_path):
    command = study_command("hydra/launcher=basic", "seed=0,1", n_trials=2)
    result = train(*command, cwd=tmp_path)
    assert result.returncode == 2 and "needs hydra/launcher=local" in result.stderr
    assert list(tmp_path.iterdir()) == []


# As a user runs it


def study_command(*overrides: str, n_trials: int) -> tuple[str, ...]:
    return ("--multirun", "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={n_trials}", *SMALL, *LEAN, *overrides)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_one_nan_and_one_crash_among_ten_trials(tmp_path):
    kinds = ["nan_weights", "raise", *(f"good{number}" for number in range(8))]
    command = study_command(
        "hydra.sweeper.sampler._target_=optuna.samplers.GridSampler",
        "hydra.launcher.n_jobs=2",
        "epochs=2",
        "+callback.fault._target_=tests.support.faults.Fault",
        f"+callback.fault.kind={','.join(kinds)}",
        n_trials=10,
    )
    result = train(*command, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    trials = load(journal(tmp_path)).trials
    failed = {trial.params["callback.fault.kind"] for trial in trials if trial.state == TrialState.FAIL}
    assert len(trials) == 10 and states(trials).count("COMPLETE") == 8 and failed == {"nan_weights", "raise"}
    assert "NonFiniteLoss" in result.stdout and "LookupError: broken on purpose" in result.stdout
    # A free slot asks at once: in batches of two, none would begin while one of an earlier batch runs.
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
    assert any(spans[i][0] < spans[j][1] for i in range(10) for j in range(i) if j // 2 < i // 2)
    assert not any(sum(a < begin < b for a, b in spans) > 1 for begin, _ in spans)  # and never are there three

    again = train(*command, cwd=tmp_path)
    assert again.returncode == 0 and "running" not in again.stderr and again.stderr.count("tensorboard") == 0
    assert "8 completed before, 2 failed" in again.stderr
    rows = [line for line in again.stdout.splitlines() if not line.startswith("job ")]
    assert len(rows) == 10 and again.stdout.count("failed: ") == 2 and len(load(journal(tmp_path)).trials) == 10


@pytest.mark.slow
def test_killed_and_continued_no_trial_is_lost_or_double(tmp_path):
    overrides = ("epochs=3", f"{RATE}=tag(log,interval(1e-4,1e-1))")
    command = [sys.executable, "-m", "src.train", *study_command(*overrides, n_trials=3)]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    ) as parent:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("outputs/digits/*/history.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        parent.send_signal(signal.SIGKILL)
    before = load(journal(tmp_path)).trials
    assert "RUNNING" in states(before)
    result = train(*study_command(*overrides, n_trials=4), cwd=tmp_path)  # and one more than it was
    assert result.returncode == 0, result.stderr
    assert re.search(r"\d to resume, \d more to run", result.stderr)
    study = load(journal(tmp_path))
    runs = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("outputs/digits/*/run.json")}
    assert states(study.trials) == ["COMPLETE"] * 4
    assert [trial.params for trial in study.trials[: len(before)]] == [trial.params for trial in before]
    assert {trial.user_attrs["id"] for trial in study.trials} == {record["id"] for record in runs.values()}
    assert sorted(trial.value for trial in study.trials) == sorted(r["best"]["value"] for r in runs.values())
    for trial in study.trials:
        history = Record(tmp_path / trial.user_attrs["directory"]).history()
        assert trial.intermediate_values == {epoch["epoch"]: epoch["val/accuracy"] for epoch in history}
        assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    best = result.stderr.partition("best: ")[2].splitlines()
    assert f"val/accuracy {study.best_value:.6f}" in best[0] and study.best_trial.user_attrs["directory"] in best[0]
    assert best[1].endswith(f"{RATE}={study.best_params[RATE]!r}")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_pruned_run_is_stopped_and_goes_on_by_its_own_command(tmp_path):
    command = study_command(
        "hydra.sweeper.sampler._target_=optuna.samplers.GridSampler",
        "hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner",
        "+hydra.sweeper.pruner.lower=0.5",
        "epochs=30",
        f"{RATE}=1e-7",
        "seed=0,1",
        n_trials=2,
    )
    result = train(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert states(load(journal(tmp_path)).trials) == ["PRUNED"] * 2
    runs = sorted(path.parent for path in tmp_path.glob("outputs/digits/*/run.json"))
    for run in runs:
        record = Record(run).read()
        assert record["status"] == "pruned" and 1 <= record["epoch"] < 30 and record["error"] is None
        assert list((run / "checkpoints").glob("*.index"))

    pruned_at = Record(runs[0]).read()["epoch"]
    own = train(*Record(runs[0]).read()["overrides"], cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    assert Record(runs[0]).read()["status"] == "completed" and f"epoch {pruned_at}," in own.stderr  # continued there
    again = train(*command, cwd=tmp_path)
    assert again.returncode == 0 and "2 pruned: " in again.stderr
    assert Record(runs[1]).read()["status"] == "pruned"
