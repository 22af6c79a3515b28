"""`python -m src.runs clean`: what goes, what stays, and that nothing is lost, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys

import pytest

from src.common.lock import Locked, hold
from src.runs import branch, clean
from src.runs.branch import begin_branch, find_parent
from src.runs.clean import make_plan
from src.runs.collection import branches_of, lock_path
from src.runs.record import Record
from src.training.manifest import newest_good
from src.verify_resume import WATCHED, command, compare, finish, run_until
from tests.runs.made import contents, make_run
from tests.support.commands import runs as main
from tests.support.helpers import DIGITS, ROOT, only_run, run_module, train

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def cleaned(*arguments, cwd):
    """`python -m src.runs clean --yes` has ended well; what it printed."""
    found = run_module("src.runs", "clean", "--yes", *arguments, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return found.stdout


def with_checkpoints(folder):
    return sorted(int(re.search(r"-s(\d+)-", path.parent.name)[1]) for path in folder.glob("*/checkpoints"))


@pytest.fixture
def digits(tmp_path):
    return tmp_path / "outputs" / "digits"


def test_the_best_of_each_name_and_monitor_keep_theirs(tmp_path, digits):
    for number in range(6):
        make_run(digits, number)
        make_run(digits.with_name("loss"), number, monitor="val/loss", mode="min")
    make_run(digits, 9, best=None)
    before = contents(tmp_path)
    printed = cleaned("--keep", "2", cwd=tmp_path)
    assert with_checkpoints(digits) == [4, 5] and with_checkpoints(digits.with_name("loss")) == [0, 1]
    assert re.search(r"^removed \d+ kB$", printed, re.M)
    assert "kept: 4 runs, the best 2 of each name and monitor" in printed

    after = contents(tmp_path)
    gone = {path for path in before if path not in after}
    assert gone and all("checkpoints" in path.parts for path in gone)
    changed = {path for path in after if before.get(path) != after[path] and ".locks" not in path.parts}
    assert {path.name for path in changed} == {"run.json"}
    for path in changed:
        was, now = json.loads(before[path]), json.loads(after[path])
        assert re.fullmatch(r"20\d\d-.*T.*\+00:00", now.pop("cleaned")) and now == was
    assert "nothing to remove" in cleaned("--keep", "2", cwd=tmp_path)
    assert contents(tmp_path) == after


def test_what_can_go_on_is_not_touched(tmp_path, digits):
    for number, status in enumerate(("running", "interrupted", "failed", "pruned")):
        make_run(digits, number, status=status)
    parent, used = make_run(digits, 4), make_run(digits, 5)
    linked, target = make_run(digits, 6, checkpoints=False), tmp_path / "other disk"
    shutil.copytree(parent / "checkpoints", target)
    (linked / "checkpoints").symlink_to(target)
    of = {"config_hash": Record(parent).read()["config_hash"], "step": 120, "epoch": 3, "checkpoint": "1"}
    make_run(digits.with_name("others"), 7, parent=of, status="interrupted", checkpoints=False)
    before = contents(tmp_path)
    with hold(lock_path(used)):
        printed = cleaned("--keep", "0", "outputs", cwd=tmp_path)
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    reasons = re.findall(r"kept: 1 run, (.*)", printed)
    assert f"in use by process {os.getpid()} on " in "".join(reasons)
    assert {"failed", "pruned", "from which others branch", "whose checkpoints are a link"} < set(reasons)
    assert "kept: 2 runs, interrupted" in printed
    assert printed.endswith("nothing to remove\n")


def test_completed_runs_that_were_set_aside_lose_theirs_and_take_no_place(tmp_path, digits):
    make_run(digits, 1), make_run(digits, 2)
    aside = make_run(digits, 3, aside=True)
    unfinished = make_run(digits, 4, aside=True, status="interrupted")
    saved_model = contents(aside / "saved_model")
    cleaned("--keep", "2", cwd=tmp_path)
    assert with_checkpoints(digits) == [1, 2, 4] and (unfinished / "checkpoints").is_dir()
    assert contents(aside / "saved_model") == saved_model


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path, digits):
    run, target = make_run(digits, 1), tmp_path / "precious"
    (target / ".tmp-1-mine").mkdir(parents=True)
    (run / "checkpoints" / "link").symlink_to(target)
    shutil.rmtree(run / "saved_model")
    (run / "saved_model").symlink_to(target)
    cleaned("--keep", "0", cwd=tmp_path)
    assert not (run / "checkpoints").exists() and (target / ".tmp-1-mine").is_dir()


def test_leftovers_of_killed_processes(tmp_path, digits):
    """They go from runs of any status, and stay where a process may be writing them."""
    run, busy = make_run(digits, 1, status="interrupted"), make_run(digits, 2)
    kept = contents(run)
    names = (".tmp-clean-9-checkpoints/a", "saved_model/.tmp-9-1/b", "checkpoints/.tmp-9-ckpt-2.json")
    for folder in (run, busy):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("half")
    with hold(lock_path(busy)):
        printed = cleaned("--keep", "0", cwd=tmp_path)
    assert contents(run) == kept and all((busy / name).exists() for name in names)
    assert not (run / "saved_model" / ".tmp-9-1").exists() and "removed 12 B" in printed
    (run / "checkpoints" / names[2].rpartition("/")[2]).write_text("half")
    Record(run).update(status="completed")
    assert [removal.path for removal in make_plan([run], keep=0).removals] == [run / "checkpoints"], (
        "with what is inside"
    )


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        (b"y\n", 0, "removed 10 kB"),
        (b"n\n", 1, "nothing was removed"),
        (b"\n", 1, "nothing was removed"),
        (b"\x04", 1, "nothing was removed"),
        (b"\x03", 130, "interrupted"),
    ],
    ids=["y", "n", "return", "end of file", "Ctrl-C"],
)
def test_it_asks_on_a_terminal(tmp_path, digits, typed, code, message):
    run = make_run(digits, 1)
    before = contents(run)
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in a shell's background
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "-m", "src.runs", "clean", "--keep", "0"], ENVIRONMENT)
    said = b""
    while not said.endswith(b"[y/N] "):
        said += os.read(terminal, 1000)
    assert re.search(rb"Remove 1\d kB of checkpoints of 1 run\? \[y/N\] $", said) and contents(run) == before
    os.write(terminal, typed)
    rest = b""
    try:
        while chunk := os.read(terminal, 1000):
            rest += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    assert message.split()[0].encode() in rest and b"Traceback" not in rest
    assert (contents(run) == before) == (code != 0)


def test_without_a_terminal_it_wants_a_yes(tmp_path, digits):
    run = make_run(digits, 1)
    before = contents(run)
    for option, code in (("--dry-run", 0), ("--keep=0", 1)):
        found = run_module("src.runs", "clean", "--keep", "0", option, cwd=tmp_path)
        assert found.returncode == code and str(run.relative_to(tmp_path) / "checkpoints") in found.stdout
        assert contents(run) == before
    assert found.stderr.endswith("of checkpoints of 1 run: nothing was removed; --yes removes it without asking\n")


def test_what_has_changed_since_it_was_planned_stays(digits):
    run, used = make_run(digits, 1), make_run(digits, 2)
    first, second = make_plan([digits], keep=0).removals
    Record(run).update(status="running")
    assert not first.carry_out() and (run / "checkpoints").is_dir()
    with subprocess.Popen([sys.executable, "-c", HOLD, lock_path(used)], env=ENVIRONMENT, **PIPES) as holder:
        holder.stdout.readline()
        with pytest.raises(Locked, match=f"process {holder.pid}"):
            second.carry_out()
        holder.communicate(b"\n")
    assert (used / "checkpoints").is_dir()


def test_what_cannot_be_removed_is_named_and_the_others_go(digits, monkeypatch, capsys):
    stubborn, other = make_run(digits, 1), make_run(digits, 2)
    remove = shutil.rmtree

    def refuse(path):
        if path.parent == stubborn:
            raise PermissionError(13, "Permission denied", str(path))
        remove(path)

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    assert main(["clean", str(digits), "--keep", "0", "--yes"]) == 1
    assert not (other / "checkpoints").exists()
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {stubborn / 'checkpoints'} could not be removed") and "Permission denied" in error


def test_killed_while_it_removes(tmp_path, digits):
    """Nothing is half there, and the next one removes the rest."""
    run = make_run(digits, 1)
    process = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert process.returncode == -signal.SIGKILL and contents(next(run.glob(".tmp-clean-*"))), "killed in the midst"
    assert not (run / "checkpoints").exists() and Record(run).read()["cleaned"]
    listed = run_module("src.runs", "list", cwd=tmp_path)
    assert listed.returncode == 0 and not listed.stderr and "completed" in listed.stdout
    assert "1 leftover" in run_module("src.runs", "clean", "--dry-run", cwd=tmp_path).stdout
    cleaned(cwd=tmp_path)
    assert not list(run.glob(".tmp-*")) and (run / "saved_model" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize("where", ["elsewhere", "by a link", "broken", "gone"])
def test_a_branch_that_cannot_be_seen_protects_its_parent(tmp_path, digits, monkeypatch, where):
    parent, other = make_run(digits, 1), make_run(digits, 2)
    named = tmp_path / "link"
    named.symlink_to(digits)
    folder = tmp_path / "far" / "name" / "cnn-s0-1a2b3c4d"
    begin_branch(named / parent.name if where == "by a link" else parent, folder, checkpoint=checksum(parent))
    assert newest_good(folder / "checkpoints")
    if where == "broken":
        (folder / "run.json").write_text("{")
    if where == "gone":
        shutil.rmtree(folder)
    before = contents(parent)
    monkeypatch.chdir(tmp_path / "far")
    assert main(["clean", str(named), "--keep", "0", "--yes"]) == 0
    assert contents(parent) == before and not (other / "checkpoints").exists()
    assert find_parent(parent).checkpoint == checksum(parent)


def test_a_branch_that_begins_after_the_plan(tmp_path, digits):
    parent = make_run(digits, 1)
    (removal,) = make_plan([digits], keep=0).removals
    begin_branch(parent, tmp_path / "branch", checkpoint=checksum(parent))
    before = contents(parent)
    assert not removal.carry_out() and contents(parent) == before


def test_a_branch_that_begins_while_its_parent_is_in_use(tmp_path, digits):
    parent = make_run(digits, 1)
    with subprocess.Popen([sys.executable, "-c", HOLD, lock_path(parent)], env=ENVIRONMENT, **PIPES) as holder:
        holder.stdout.readline()
        begin_branch(parent, tmp_path / "branch", checkpoint=checksum(parent))
        holder.communicate(b"\n")
    assert newest_good(tmp_path / "branch" / "checkpoints") and branches_of(parent) == ["branch"]


@pytest.mark.parametrize("moment", ["before it looks", "while it copies", "after the copy"])
def test_a_clean_that_comes_before_a_branch_has_all(tmp_path, digits, monkeypatch, moment):
    """Either the branch has its checkpoint and the parent keeps its own, or the branch has nothing and says so."""
    parent, target = make_run(digits, 1), tmp_path / "branch"
    (removal,) = make_plan([digits], keep=0).removals
    wanted, copy, first, seen = checksum(parent), branch.copy_checkpoint, shutil.copyfile, []

    def remove(*_):
        if not seen:
            seen.append(monkeypatch.setattr(clean, "branches_of", lambda _: []))  # it looked just before the note
            assert removal.carry_out()

    def then_remove(*arguments):
        copy(*arguments)
        remove()

    def copy_and_remove(*arguments):
        first(*arguments)
        remove()

    if moment == "before it looks":
        remove()
    elif moment == "while it copies":
        monkeypatch.setattr("src.training.manifest.shutil.copyfile", copy_and_remove)
    else:
        monkeypatch.setattr(branch, "copy_checkpoint", then_remove)
    with pytest.raises(ValueError, match=f"the checkpoints of {parent} were removed meanwhile"):
        begin_branch(parent, target, checkpoint=wanted)
    assert not contents(target)


def test_a_branch_that_begins_while_they_are_moved_away(tmp_path, digits, monkeypatch):
    """They are moved back."""
    parent = make_run(digits, 1)
    (removal,) = make_plan([digits], keep=0).removals
    before, answers = contents(parent / "checkpoints"), iter([[], ["1a2b3c4d"]])
    monkeypatch.setattr(clean, "branches_of", lambda _: next(answers))
    assert not removal.carry_out() and contents(parent / "checkpoints") == before
    assert not Record(parent).read()["cleaned"] and not list(parent.glob(".tmp-*"))


def test_a_parent_that_cannot_be_written_can_still_be_branched_from(tmp_path, digits, caplog):
    parent = make_run(digits, 1)
    (parent / "branches").touch()  # in the way, as a read-only folder would be for all but root
    begin_branch(parent, tmp_path / "branch", checkpoint=checksum(parent))
    assert newest_good(tmp_path / "branch" / "checkpoints") and "clean will not know of this branch" in caplog.text


def checksum(run):
    return find_parent(run).checkpoint


@pytest.mark.slow
@pytest.mark.exhaustive
def test_real_runs(tmp_path):
    """After clean the completed run is reused and cannot be branched from; the killed one ends with the same bits."""
    config = [*DIGITS, "epochs=3", "model.dropout=0.2"]
    assert train(*config, cwd=tmp_path).returncode == 0
    straight, copy = only_run(tmp_path / "outputs" / "digits"), tmp_path / "copy"
    shutil.copytree(straight, copy)
    killed = tmp_path / "outputs" / "killed" / "run"
    watched = command(config, killed, *WATCHED, "callback.checkpoint.every_steps=7")
    assert run_until(watched, killed, step=50) is not None
    before = contents(killed)
    assert re.search(r"^interrupted .*outputs/killed/run$", run_module("src.runs", "list", cwd=tmp_path).stdout, re.M)

    cleaned("--keep", "0", cwd=tmp_path)
    assert not (straight / "checkpoints").exists() and contents(killed) == before
    again = train(*config, cwd=tmp_path)
    assert again.returncode == 0 and "already completed, reused" in again.stdout
    refused = train(f"resume={straight.relative_to(tmp_path)}", "epochs=4", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "has no checkpoints any more: python -m src.runs clean removed them at 20" in refused.stderr
    finish(config, killed)
    assert compare(killed, copy) == []


HOLD = """
import sys
from pathlib import Path
from src.common.lock import hold
with hold(Path(sys.argv[1])):
    print(flush=True)
    input()
"""
KILLED = """
import os, shutil, signal
from src.runs.__main__ import main
def rmtree(path):
    next(file for file in path.iterdir() if file.is_file()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = rmtree
main(["clean", "--keep", "0", "--yes"])
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
