"""What a command does with the run that its config names: start, resume, retry, measure, or reuse it.

decide(record, config_hash=..., changed=[], stale="ask")      # "reuse"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from src.common.text import first_of
from src.runs.record_schema import RecordValues

Action = Literal["start", "resume", "measure", "reuse"]


class StaleRun(RuntimeError):
    """A run exists, but what computed it has changed since."""


def decide(
    record: RecordValues | None,
    *,
    config_hash: str,
    changed: Sequence[str] = (),
    has_checkpoints: bool = True,
    stale: str = "ask",
    rerun: bool = False,
    evaluate_test: bool = False,
) -> tuple[Action, bool]:
    """Decide from a run's record.

    Args:
        record: of the run's directory; None where there is none.
        config_hash: of the command.
        changed: what computed the run and has changed since.
        has_checkpoints: whether the run has anything to go on from; one that failed before that just starts.
        stale: what to do where code or data have changed since: `ask`, `reuse`, `rerun`.
        rerun: start afresh in any case.
        evaluate_test: measure the test split of a completed run of which that has not been done, and that can be.

    Returns:
        The action, and whether what lies in the directory must be set aside first.

    Raises:
        StaleRun: code or data have changed and `stale` is `ask`; names what.
        ValueError: the directory's run has another config with the same 8 digits.
    """
    if rerun:
        return "start", True
    if record is None:  # checkpoints without a record could be of any code
        return "start", has_checkpoints
    if not record["config_hash"]:
        raise ValueError("the run.json of this directory has no config_hash, so nothing is known of it: move it away")
    if record["config_hash"] != config_hash:
        raise ValueError(
            f"run {record['id']} has another config whose hash begins alike; give this one another name=..."
        )
    if record["status"] != "completed" and not has_checkpoints:
        return "start", False
    if changed and stale == "ask":
        raise StaleRun(
            f"run {record['id']} ({record['status']}) was computed before a change of {first_of(changed, 6)}. "
            "stale=rerun starts it afresh and keeps the old one aside; stale=reuse takes it as it is"
        )
    if changed and stale == "rerun":
        return "start", True
    if record["status"] != "completed":
        return "resume", False
    return ("measure" if evaluate_test and has_checkpoints and not record["test"] else "reuse"), False
