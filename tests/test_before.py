"""Runs of an earlier commit, one of each status, are found, compared, reused and resumed: tests/support/before.py."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks.bits import compare, results
from src.runs.environment import environment
from src.runs.record import Record
from src.sweeps.plan import plan_one
from tests.support.before import CONFIG, ENDINGS, FOLDER
from tests.support.helpers import run_module, train

# Old records' fingerprints are not by today's rule.
STALE = "stale=ask"  # the default: nothing that computes has changed since


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A copy, in the folder where commands are typed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "outputs")
    return tmp_path / "outputs"


def run_of(outputs, status: str):
    (path,) = (outputs / status).glob("*/run.json")
    return path.parent


def test_each_status_is_there():
    assert {path.name for path in FOLDER.iterdir()} == set(ENDINGS)
    for status in ENDINGS:
        assert Record(run_of(FOLDER, status)).read()["status"] == status
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 600_000


def test_they_are_found_and_compared(outputs, tmp_path):
    listed = run_module("src.runs", "list", "outputs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for status in ENDINGS:
        shown = "interrupted" if status == "running" else status  # its process is dead
        assert any(status in line and shown in line for line in listed.stdout.splitlines()), listed.stdout
    compared = run_module("src.compare", "outputs", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    for status in ENDINGS:
        best = Record(run_of(outputs, status)).read()["best"]["value"]
        assert any(line.split()[:2] == [status, f"{best:g}"] for line in compared.stdout.splitlines())


@pytest.mark.parametrize("status", ENDINGS)
def test_a_command_goes_on_from_what_it_finds(outputs, status):
    job = plan_one([*CONFIG, f"name={status}", STALE])
    assert job.directory.resolve() == run_of(outputs, status)
    assert job.action == ("reuse" if status == "completed" else "resume")
    assert not job.set_aside


@pytest.mark.sample(1)
@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_one_that_ended_early_ends_as_the_undisturbed_one(outputs, tmp_path, status):
    """Bit for bit, where this is the machine and the packages that the first half was computed with."""
    run, straight = run_of(outputs, status), run_of(outputs, "completed")
    then, here = Record(run).read()["environment"], environment()
    ended = train(*CONFIG, f"name={status}", STALE, cwd=tmp_path)
    assert ended.returncode == 0 and "reused" not in ended.stdout, ended.stderr
    now, before = (Record(path).read() for path in (run, straight))
    for key in ("status", "epoch", "step"):
        assert now[key] == before[key]
    assert (run / "saved_model" / "1" / "saved_model.pb").is_file()
    expected, found = results(straight), results(run)
    if all(then[key] == here[key] for key in ("packages", "python", "processor")):
        different = compare(expected, found)
        assert not different["variables"].keys and not different["history"].keys
    for key, value in expected["history"].items():
        np.testing.assert_allclose(found["history"][key], value, rtol=0.02, err_msg=key)


def test_a_branch_starts_from_one(outputs, tmp_path):
    parent = run_of(outputs, "completed")
    ended = train(f"resume={parent}", "epochs=4", "name=branch", STALE, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    record = Record(run_of(outputs, "branch")).read()
    assert record["status"] == "completed" and record["epoch"] == 4
    assert record["parent"]["config_hash"] == Record(parent).read()["config_hash"]
