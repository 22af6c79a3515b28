"""What a command does with the run that it names: one table."""

import pytest

from src.runs.decision import StaleRun, decide

OLD = {"code": {"src/trainer.py": "1"}, "data": {"dataset": "digits:1.0.0"}}
NEW = {"code": {"src/trainer.py": "2"}, "data": {"dataset": "digits:1.0.0"}}
UNFINISHED = ("running", "interrupted", "failed", "pruned")


def record(status):
    return {"id": "1a2b3c4d", "status": status, "config_hash": "1a2b3c4d00", "fingerprints": OLD}


def decided(status, now, **options):
    return decide(status and record(status), config_hash="1a2b3c4d00", fingerprints=now, **options)


@pytest.mark.parametrize(
    ("status", "now", "options", "expected"),
    [
        (None, NEW, {}, ("start", True)),
        (None, NEW, {"has_checkpoints": False}, ("start", False)),
        (None, NEW, {"rerun": True}, ("start", True)),
        ("completed", OLD, {}, ("reuse", False)),
        ("completed", OLD, {"stale": "rerun"}, ("reuse", False)),
        ("completed", OLD, {"rerun": True}, ("start", True)),
        ("completed", OLD, {"has_checkpoints": False}, ("reuse", False)),
        ("completed", NEW, {"stale": "reuse"}, ("reuse", False)),
        ("completed", NEW, {"stale": "rerun"}, ("start", True)),
        ("completed", NEW, {"rerun": True}, ("start", True)),
        *((status, OLD, {}, ("resume", False)) for status in UNFINISHED),
        *((status, NEW, {"stale": "reuse"}, ("resume", False)) for status in UNFINISHED),
        *((status, NEW, {"stale": "rerun"}, ("start", True)) for status in UNFINISHED),
        *((status, OLD, {"rerun": True}, ("start", True)) for status in UNFINISHED),
        *((status, NEW, {"has_checkpoints": False}, ("start", False)) for status in UNFINISHED),
    ],
)
def test_decision(status, now, options, expected):
    assert decided(status, now, **options) == expected


@pytest.mark.parametrize("status", ["completed", *UNFINISHED])
def test_a_changed_code_is_named_with_both_ways_out(status):
    with pytest.raises(StaleRun, match=rf"1a2b3c4d \({status}\) .*code src/trainer\.py.*stale=rerun .*stale=reuse"):
        decided(status, NEW)


def test_changed_files_are_named_by_their_folder(tmp_path):
    now = {"code": OLD["code"], "data": {**OLD["data"], "path": "2"}}
    with pytest.raises(
        StaleRun, match=rf"before a change of the files of data\.path={tmp_path} \(names, sizes or times"
    ):
        decided("completed", now, data_path=str(tmp_path))


def test_many_changes_are_counted():
    now = {"code": {f"src/{number}.py": "1" for number in range(20)}, "data": OLD["data"]}
    with pytest.raises(StaleRun, match=r"code src/0\.py.* and 15 more"):
        decided("completed", now)


def test_equal_digits_of_another_config_are_refused():
    with pytest.raises(ValueError, match=r"1a2b3c4d .*another name="):
        decide(record("completed"), config_hash="1a2b3c4dff", fingerprints=OLD)
