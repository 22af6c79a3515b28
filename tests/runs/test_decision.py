"""What a command does with the run that it names: one table."""

import pytest

from src.runs.decision import StaleRun, decide

OLD: list[str] = []  # nothing has changed since
NEW = ["code mine.models"]
UNFINISHED = ("running", "interrupted", "failed", "pruned")


def record(status):
    return {"id": "1a2b3c4d", "status": status, "config_hash": "1a2b3c4d00", "test": {}}


def decided(status, changed, **options):
    return decide(status and record(status), config_hash="1a2b3c4d00", changed=changed, **options)


@pytest.mark.parametrize(
    ("status", "changed", "options", "expected"),
    [
        (None, NEW, {}, ("start", True)),
        (None, NEW, {"has_checkpoints": False}, ("start", False)),
        (None, NEW, {"rerun": True}, ("start", True)),
        ("completed", OLD, {}, ("reuse", False)),
        ("completed", OLD, {"stale": "rerun"}, ("reuse", False)),
        ("completed", OLD, {"rerun": True}, ("start", True)),
        ("completed", OLD, {"has_checkpoints": False}, ("reuse", False)),
        ("completed", OLD, {"evaluate_test": True}, ("measure", False)),
        ("completed", OLD, {"evaluate_test": True, "has_checkpoints": False}, ("reuse", False)),
        ("interrupted", OLD, {"evaluate_test": True}, ("resume", False)),
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
def test_decision(status, changed, options, expected):
    assert decided(status, changed, **options) == expected


@pytest.mark.parametrize("status", ["completed", *UNFINISHED])
def test_a_changed_code_is_named_with_both_ways_out(status):
    with pytest.raises(StaleRun, match=rf"1a2b3c4d \({status}\) .*code mine\.models.*stale=rerun .*stale=reuse"):
        decided(status, NEW)


def test_many_changes_are_counted():
    with pytest.raises(StaleRun, match=r"code 0, .*code 5 and 14 more"):
        decided("completed", [f"code {number}" for number in range(20)])


def test_equal_digits_of_another_config_are_refused():
    with pytest.raises(ValueError, match=r"1a2b3c4d .*another name="):
        decide(record("completed"), config_hash="1a2b3c4dff")
