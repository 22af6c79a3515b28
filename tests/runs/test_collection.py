"""Which runs lie in some folders, and what is said of those that are broken."""

from __future__ import annotations

import pytest

from src.common.lock import hold
from src.config.checks import CHECKS
from src.runs.collection import TRACES, find_runs, lock_path
from tests.runs.made import make_run


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


def test_runs_are_found_at_any_depth_and_once(outputs):
    deep, plain = make_run(outputs / "group" / "deep", 1), make_run(outputs / "plain", 2)
    runs, warnings = find_runs([outputs, outputs / "plain", plain, outputs / "group" / ".." / "plain"])
    assert [run.directory for run in runs] == [deep, plain] and not warnings
    assert [run.best for run in runs] == [0.91, 0.92]
    assert [epoch["epoch"] for epoch in runs[0].history()] == [1, 2, 3]


def test_what_lies_beside_runs_is_none(outputs):
    run = make_run(outputs / "digits", 1)
    make_run(outputs / "digits" / ".locks", 2)
    for other in ("notes/a.txt", "sweeps/1a2b3c4d/sweep.json", "studies/1a2b3c4d.journal"):
        (outputs / "digits" / other).parent.mkdir(parents=True)
        (outputs / "digits" / other).touch()
    runs, warnings = find_runs([outputs])
    assert [run.directory for run in runs] == [run] and not warnings


def test_broken_folders_are_named_and_left_out(outputs):
    good = make_run(outputs / "digits", 1)
    broken = {
        "torn": ('{"id": "', "cannot be read"),
        "list": ("[1, 2]", "no JSON object"),
        "foreign": ('{"id": "1", "name": "x", "status": "completed"}', "has no monitor, so it is no run's"),
        "null": (None, "killed in its first second"),
    }
    for name, (text, _) in broken.items():
        (outputs / "digits" / name / ".hydra").mkdir(parents=True)
        if text is not None:
            (outputs / "digits" / name / "run.json").write_text(text)
    make_run(outputs / "digits", 5, epoch=0, checkpoints=False)
    unknown = make_run(outputs / "digits", 6)
    record = (unknown / "run.json").read_text()
    (unknown / "run.json").write_text(record.replace('"completed"', '"lost"'))

    runs, warnings = find_runs([outputs])
    assert [run.values["seed"] for run in runs] == [1, 5] and runs[0].directory == good
    assert len(warnings) == len(broken) + 1
    for name, (_, reason) in broken.items():
        (warning,) = [text for text in warnings if str(outputs / "digits" / name) in text]
        assert reason in warning
    assert any(str(unknown) in text and 'status="lost"; it must be running, completed, ' in text for text in warnings)


@pytest.mark.parametrize("name", ["sweeps", "studies", *TRACES[1:]])
def test_a_folder_of_a_taken_name_hides_no_runs(outputs, name):
    check = CHECKS["name"]
    assert not check.allows(name) and name in check.allowed and check.allows("digits")
    taken, other = make_run(outputs / name, 1), make_run(outputs / "digits", 2)
    killed = outputs / "digits" / "killed"
    (killed / "checkpoints" / "best").mkdir(parents=True)
    runs, warnings = find_runs([outputs])
    assert {run.directory for run in runs} == {taken, other}
    assert [text.partition(" is left out")[0] for text in warnings] == [str(killed)]


def test_a_run_that_was_set_aside_says_so(outputs):
    make_run(outputs / "digits", 1), make_run(outputs / "digits", 1, aside=True)
    runs, _ = find_runs([outputs])
    assert [run.set_aside for run in runs] == [False, True]


def test_a_run_whose_process_is_gone_is_interrupted(outputs):
    directory = make_run(outputs / "digits", 1, status="running", finished=None)
    (run,), _ = find_runs([outputs])
    assert (run.status, run.holder) == ("interrupted", None)
    with hold(lock_path(directory)):
        assert run.status == "running" and run.holder.startswith("process ")
    assert run.status == "interrupted"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_lock_that_may_not_be_read(outputs, monkeypatch, error):
    """Nothing is known but what the record says."""
    directory = make_run(outputs / "digits", 1, status="running")
    with hold(lock_path(directory)):
        pass

    def refuse(path, flags, mode=0o777):
        raise error

    monkeypatch.setattr("src.common.lock.os.open", refuse)
    (run,), _ = find_runs([outputs])
    assert (run.status, run.holder) == ("running", None)


def test_links_to_folders_are_not_followed(outputs, tmp_path):
    elsewhere = make_run(tmp_path / "elsewhere", 1)
    outputs.mkdir()
    (outputs / "link").symlink_to(elsewhere)
    assert find_runs([outputs]) == ([], [])
    assert len(find_runs([outputs / "link"])[0]) == 1, "but one that is named is"


def test_a_folder_that_does_not_exist(outputs):
    with pytest.raises(ValueError, match="nowhere is no folder; runs are outputs/<name>"):
        find_runs([outputs.parent / "nowhere"])
