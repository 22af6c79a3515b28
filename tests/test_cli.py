"""The commands as a user types them: exit codes, what goes where, and which run they find."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from src.config.identity import ID_DIGITS
from src.runs.record import Record
from tests.support import forks
from tests.support.helpers import DIGITS, ROOT, only_run, run_module, train

RUN = ("data=digits", "model=mlp", "epochs=1")
LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
NAME = rf"mlp-adam-lr0\.003-cosine-e\d+-b32-s\d-[0-9a-f]{{{ID_DIGITS}}}"
NO_VAL = """
from src.data.sources import digits

def no_val(**options):
    data = digits(**options)
    data.val = None
    return data
"""
HOLD = """
import sys
from pathlib import Path
from src.common.lock import hold
with hold(Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def train_fresh(*overrides, cwd):
    """`python -m src.train` of the project in `cwd`, whose code may have been changed."""
    return run_module("src.train", *overrides, cwd=cwd, PYTHONPATH=str(cwd))


def imports(*arguments, cwd):
    """The process, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "src.train", *arguments]
    env = {**os.environ, "PYTHONPATH": str(cwd)}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    return result, {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A project with one completed run; the project's folder, and what the command printed. Not to be changed."""
    project = tmp_path_factory.mktemp("cli") / "project"
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # which make and the tests set
        return project, train_fresh(*RUN, cwd=project)


@pytest.fixture
def project(completed, tmp_path):
    """A copy of that project, to be changed."""
    return shutil.copytree(completed[0], tmp_path / "project")


def test_standard_error_has_no_lines_of_tensorflows(completed):
    own = re.compile(
        r"\d\d:\d\d:\d\d (INFO|WARNING) |next: .*python -m src\.| {6}.*(-m src\.|\S*tensorboard --logdir )"
    )
    assert [line for line in completed[1].stderr.splitlines() if not own.match(line)] == []


def test_a_python_without_the_packages_is_told_of_the_environment():
    command = [sys.executable, "-S", "-m", "src.train"]  # -S leaves out installed packages
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "source .venv/bin/activate" in result.stderr


def test_a_completed_run(completed):
    project, result = completed
    assert result.returncode == 0, result.stderr
    run = only_run(project / "outputs" / "digits")
    assert re.fullmatch(NAME, run.name)
    record = Record(run).read()
    first, second = result.stdout.splitlines()
    assert re.fullmatch(rf"val/accuracy {record['best']['value']:.6f}  \(epoch 1 of 1, \d+\.\d s\)", first)
    assert project / second == run
    commands = (rf"next: \S+ -m src.evaluate {second}", rf"\S+ -m src.predict {second} FILE...")
    commands += (r"\S+ -m src.compare (\S+)", r"\S*tensorboard --logdir \1")
    (folder,) = re.findall("\n +".join(commands), result.stderr)
    assert project / folder == run.parent
    board = re.search(r"(\S+) --logdir", result.stderr)[1]
    assert (project / board).is_file() or shutil.which(board)
    assert "epoch 1/1" in result.stderr and "INFO" not in result.stdout and "Traceback" not in result.stderr

    expected = {".hydra", "run.json", "history.jsonl", "train.log", "checkpoints", "summaries", "saved_model"}
    expected.add("predictions.png")
    assert {path.name for path in run.iterdir()} - {"code"} == expected  # which is there with changes not committed
    assert (run / "saved_model" / "1" / "saved_model.pb").is_file()
    assert record["id"] == run.name[-ID_DIGITS:] == record["config_hash"][:ID_DIGITS]
    assert (record["status"], record["error"], record["name"]) == ("completed", None, "digits")
    assert (record["epoch"], record["epochs"], record["seed"]) == (1, 1, 0)
    assert record["overrides"] == list(RUN) and record["environment"]["threads"] == 1
    (epoch,) = Record(run).history()
    assert epoch["step"] == record["step"] and epoch["val/accuracy"] == record["best"]["value"]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "command",
    [RUN, RUN[::-1], (*RUN, "seed=0", "log_every_steps=5"), (*RUN, "trainer.steps_per_call=7", "stale=reuse")],
    ids=["again", "reversed", "defaults", "display"],
)
def test_typed_again_it_is_reused_without_tensorflow(completed, command):
    project, first = completed
    run = only_run(project / "outputs" / "digits")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result, modules = imports(*command, cwd=project)
    assert result.returncode == 0 and "omegaconf" in modules
    assert not {"tensorflow", "keras", "numpy"} & modules
    assert result.stdout.replace(", already completed, reused", "") == first.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "unet_mobilenet_v2"),
        (["--cfg", "job", *DIGITS], 0, "src.data.sources.digits"),
        (["--cfg", "job", "nope=1"], 2, "error: nope=1: there is no key 'nope'"),
        (["--cfg", "job", "--multirun"], 2, "error: Only one of"),
        (["optimiser=adam"], 2, "error: optimiser=adam: there is no key 'optimiser'. Did you mean optimizer?"),
        (["epochs=0"], 2, "error: epochs is 0; it must be an integer at least 1"),
        (["--multirun", "epochs=1,0", *DIGITS], 2, "error: job 2 of 2: epochs is 0; it must"),
        (["--multirun", "optimizer=adam,adma"], 2, "'adma'"),
        (["optimizer=adam,sgd"], 2, "--multirun"),
        (["hydra.mode=MULTIRUN"], 2, "hydra.mode cannot be given"),
        (["--multirun", "seed=interval(0,1)"], 2, "has no end of values"),
        (["--epochs=3"], 2, "there is no option --epochs=3; write epochs=3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_without_tensorflow_and_without_a_trace_on_disk(completed, arguments, code, text):
    project, _ = completed
    before = sorted(project.glob("outputs/**/*"))
    result, modules = imports(*arguments, cwd=project)
    assert result.returncode == code and "omegaconf" in modules
    assert not {"tensorflow", "keras"} & modules
    said = [line for line in result.stderr.splitlines() if not line.startswith("import time")]
    assert text in (result.stdout if code == 0 else "\n".join(said))
    assert len(said) <= 10 and "Traceback" not in result.stderr and (code == 0 or not result.stdout)
    assert sorted(project.glob("outputs/**/*")) == before


def test_changed_code_asks_and_each_answer_is_followed(project):
    run = only_run(project / "outputs" / "digits")
    with (project / "src" / "callbacks" / "progress.py").open("a") as file:
        file.write("# shown otherwise\n")
    assert "reused" in train_fresh(*RUN, cwd=project).stdout

    with (project / "src" / "training" / "trainer.py").open("a") as file:
        file.write("COMPUTED_OTHERWISE = True\n")
    asked = train_fresh(*RUN, cwd=project)
    assert asked.returncode == 1 and not asked.stdout and len(asked.stderr.splitlines()) == 1
    assert all(text in asked.stderr for text in ("the project's own code", "stale=rerun", "stale=reuse"))
    reused = train_fresh(*RUN, "stale=reuse", cwd=project)
    assert reused.returncode == 0 and "reused" in reused.stdout

    before = (run / "run.json").read_text()
    anew = train_fresh(*RUN, "stale=rerun", cwd=project)
    assert anew.returncode == 0 and "reused" not in anew.stdout
    kept = [path for path in run.parent.glob(f"{run.name}.*") if path.is_dir()]
    assert len(kept) == 1 and (kept[0] / "run.json").read_text() == before and kept[0].name in anew.stderr
    assert "reused" in train_fresh(*RUN, cwd=project).stdout
    assert not list(run.parent.glob("*/.tmp*"))


@pytest.mark.exhaustive
def test_rerun_keeps_the_old_directory(project):
    run = only_run(project / "outputs" / "digits")
    before = Record(run).read()
    result = train(*RUN, "rerun=true", cwd=project)
    assert result.returncode == 0 and "reused" not in result.stdout
    (kept,) = run.parent.glob(f"{run.name}.*")
    after = Record(run).read()
    assert Record(kept).read() == before and after["id"] == before["id"]
    assert after["metrics"] == before["metrics"], "the same config gives the same numbers"


@pytest.mark.exhaustive
def test_a_sweep_gives_each_job_its_directory_and_reuses_what_is_there(project):
    there = only_run(project / "outputs" / "digits")
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    result = train("--multirun", *RUN, "seed=0,1", cwd=project)
    assert result.returncode == 0, result.stderr
    runs = sorted(path.parent for path in project.glob("outputs/digits/*/run.json"))
    assert len(runs) == 2 and runs[0] == there and all(re.fullmatch(NAME, run.name) for run in runs)
    assert [Record(run).read()["seed"] for run in runs] == [0, 1]
    assert [Record(run).read()["status"] for run in runs] == ["completed", "completed"]
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before
    assert (runs[1] / ".hydra" / "config.yaml").is_file() and "epoch 1/1" in (runs[1] / "train.log").read_text()
    single = train(*RUN, "seed=1", cwd=project)
    assert single.returncode == 0 and "reused" in single.stdout


@pytest.mark.exhaustive
def test_a_sweep_takes_a_folder_of_options(project):
    folder = project / "options" / "model"
    folder.mkdir(parents=True)
    shutil.copyfile(project / "conf" / "model" / "mlp.yaml", folder / "mine.yaml")
    words = ("--multirun", "--config-dir", "options", "data=digits", "model=mine", "epochs=1", "seed=0,1")
    result = train(*words, cwd=project)
    assert result.returncode == 0, result.stderr
    assert len(list(project.glob("outputs/digits/*/run.json"))) == 2  # seed 0 is the completed one


def test_a_loss_that_is_not_finite_fails_with_one_message(project):
    result = train(*RUN, "optimizer=sgd", "optimizer.learning_rate=1e12", "name=bad", cwd=project)
    assert result.returncode == 1 and not result.stdout and "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    run = only_run(project / "outputs" / "bad")
    record, log = Record(run).read(), (run / "train.log").read_text()
    assert re.search(r"step \d+ is not finite", message)
    assert record["status"] == "failed" and record["finished"]
    assert record["error"].pop("traceback") in log
    assert record["error"] == {"type": "NonFiniteLoss", "message": message.removeprefix("error: ")}
    assert log.count("ended by an exception\nTraceback (most recent call last)") == 1 and "NonFiniteLoss" in log


@pytest.mark.exhaustive
def test_a_monitor_that_the_data_cannot_bear(project):
    (project / "mine.py").write_text(NO_VAL)
    with (project / "conf" / "targets.txt").open("a") as file:
        file.write("data  mine\n")
    result = train_fresh(*RUN, "data._target_=mine.no_val", "name=bad", cwd=project)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "'val/accuracy'" in result.stderr and "train/accuracy" in result.stderr
    assert not list(project.glob("outputs/bad/*/run.json")), "a wrong command is no run"


def test_a_second_process_is_refused_while_a_run_is_locked(project):
    run = only_run(project / "outputs" / "digits")
    lock = run.parent / ".locks" / run.name[-ID_DIGITS:]
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        result = train(*RUN, cwd=project)
        holder.communicate("\n")
    assert result.returncode == 1 and f"process {holder.pid} on" in result.stderr and "wait=true" in result.stderr


def test_evaluate(completed):
    project, _ = completed
    run = only_run(project / "outputs" / "digits")
    result = forks.run("src.evaluate", [str(run), "split=val"], cwd=project)
    assert result.returncode == 0, result.stderr
    head, *lines = result.stdout.partition("\n\n")[0].splitlines()
    assert head.split() == ["val", "best", "weights", "SavedModel"]
    values = {name: numbers for name, *numbers in map(str.split, lines)}
    best = Record(run).read()["metrics"]
    assert values == {name: [f"{best[f'val/{name}']:.6f}"] * 2 for name in ("loss", "accuracy")}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["outputs/digits/none"], "outputs/digits/none is no run"),
        (["RUN", "split=dev"], "split is 'dev'; it must be one of train, val, test"),
        (["RUN", "RUN"], "one run is wanted"),
        ([], "usage: python -m src.evaluate RUN"),
    ],
    ids=["missing run", "wrong split", "two runs", "nothing"],
)
def test_evaluate_refuses(completed, arguments, text):
    project, _ = completed
    run = str(only_run(project / "outputs" / "digits"))
    arguments = [argument.replace("RUN", run) for argument in arguments]
    result = run_module("src.evaluate", *arguments, cwd=project, PYTHONPATH=str(project))
    assert result.returncode == 2 and text in result.stdout + result.stderr and "Traceback" not in result.stderr


def test_a_lost_record_does_not_pass_old_checkpoints_for_new(project):
    run = only_run(project / "outputs" / "digits")
    (run / "run.json").unlink()
    result = train(*RUN, "trainer.jit_compile=false", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "the earlier run is kept in" in result.stderr and "continuing" not in result.stderr


@pytest.mark.exhaustive
def test_xla(project):
    result = train(*RUN, *LEAN, "trainer.jit_compile=true", cwd=project)
    assert result.returncode == 0, result.stderr


def test_jobs_that_share_a_process_share_its_threads(project):
    result = train("--multirun", "hydra/launcher=basic", *RUN, "trainer.threads=1,2", cwd=project)
    assert result.returncode == 2 and "in one sweep, whose jobs share a process" in result.stderr


@pytest.mark.exhaustive
def test_a_launcher_of_hydras_own(project):
    result = train("--multirun", "hydra/launcher=basic", *RUN, "seed=0,1", cwd=project)
    assert result.returncode == 0 and result.stdout.count("reused") == 1, result.stderr
    assert len(list(project.glob("outputs/digits/*/run.json"))) == 2
    assert [path.name for path in project.glob("outputs/digits/sweeps/*/*")] == ["multirun.yaml"]
