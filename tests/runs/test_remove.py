"""`python -m src.runs delete` and `archive`: whole runs go, or are packed, and nothing that is needed is lost."""

from __future__ import annotations

import fcntl
import tarfile
from contextlib import contextmanager

import pytest

from src.runs.collection import lock_path
from tests.runs.made import contents, make_run
from tests.support.commands import runs as main


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two runs, with tmp_path as the working directory."""
    monkeypatch.chdir(tmp_path)
    return [make_run(tmp_path / "outputs" / "digits", number) for number in range(2)]


@contextmanager
def in_use(directory):
    """As another process does, by a lock of its own."""
    lock_path(directory).parent.mkdir(exist_ok=True)
    with lock_path(directory).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_run_goes_as_a_whole_and_the_other_stays(made, capsys):
    first, second = made
    before = contents(second)
    assert main(["delete", str(first)]) == 1 and first.is_dir()  # nobody is there to say yes
    assert "1 run of" in capsys.readouterr().err
    assert main(["delete", str(first), "--yes"]) == 0
    assert not first.exists() and contents(second) == before
    assert [path.name for path in first.parent.iterdir() if path.name.startswith(".tmp")] == []
    assert main(["delete", str(first), "--yes"]) == 2


def test_a_run_in_use_or_with_branches_stays(made, capsys):
    first, second = made
    with in_use(first):
        for words in (["delete", str(first), "--yes"], ["archive", str(first), "--output", "runs.tar.gz"]):
            assert main(words) == 1
            said = capsys.readouterr().err
            assert f"{first} is in use by" in said and "type the command again when that" in said, said
    (first / "branches").mkdir()
    (first / "branches" / second.name[-8:]).touch()
    assert main(["delete", str(first), "--yes"]) == 2
    assert f"{second.name[-8:]} branched from it" in capsys.readouterr().err
    assert first.is_dir()
    assert main(["delete", str(first), str(second), "--yes"]) == 0
    assert not first.exists() and not second.exists()


def test_an_archive_unpacked_in_the_same_place_is_the_same_runs(made, tmp_path, capsys):
    before = contents(tmp_path / "outputs")
    assert main(["archive", *map(str, made), "--output", "runs.tar.gz"]) == 0
    assert capsys.readouterr().out.startswith("runs.tar.gz  2 runs, ")
    assert main(["archive", str(made[0]), "--output", "runs.tar.gz"]) == 2
    assert main(["delete", *map(str, made), "--yes"]) == 0
    with tarfile.open("runs.tar.gz") as packed:
        packed.extractall(filter="data")
    after = contents(tmp_path / "outputs")
    assert {path: after[path] for path in before} == before


def test_what_cannot_be_packed_leaves_no_file(made, tmp_path, monkeypatch):
    with in_use(made[1]):
        assert main(["archive", *map(str, made), "--output", str(tmp_path / "runs.tar.gz")]) == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["archive", str(made[0]), "--output", "runs.tar.gz"]) == 2
    assert not list(tmp_path.glob("**/*runs.tar.gz"))


def test_a_link_to_a_run_is_the_run(made, tmp_path, capsys):
    first, _ = made
    link = first.with_name("latest")
    link.symlink_to(first.name)
    before = contents(first)
    with in_use(first):
        assert main(["archive", str(link), "--output", "runs.tar.gz"]) == 1
    assert main(["archive", str(link), str(first), "--output", "new/runs.tar.gz"]) == 0
    assert capsys.readouterr().out.startswith("new/runs.tar.gz  1 run, ")
    assert main(["delete", str(link), str(first), "--yes"]) == 0
    assert not first.exists() and not list(first.parent.glob(".tmp*"))
    with tarfile.open("new/runs.tar.gz") as packed:
        assert len(packed.getnames()) == len(set(packed.getnames()))
        packed.extractall(filter="data")
    assert contents(first) == before


def test_what_a_link_in_a_run_leads_to_is_said_to_be_left_out(made, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (made[0] / "checkpoints2").symlink_to(tmp_path / "disk")
    (made[0] / "newest").symlink_to("run.json")
    assert main(["archive", str(made[0]), "--output", "runs.tar.gz"]) == 0
    assert capsys.readouterr().err == f"warning: {made[0]}/checkpoints2 is a link, and what it leads to is not packed\n"
