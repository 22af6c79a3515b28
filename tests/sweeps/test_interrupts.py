"""A sweep whose parent is killed or stopped leaves no process behind, and the same command completes it exactly."""

from __future__ import annotations

import pytest

from benchmarks.sweeps import interrupts
from tests.helpers import DIGITS

# What all state there is does to a run that goes on is tested in test_resume.py.
QUICK = (
    *DIGITS,
    "model.dropout=0.3",
    "epochs=2",
    "callback.export=null",
    "callback.images=null",
    "callback.hparams=null",
    "callback.summaries=null",
)


@pytest.mark.slow
def test_a_killed_and_a_stopped_sweep_end_as_an_undisturbed_one(tmp_path, capsys):
    # Late moments are left to the benchmark: a sweep that is over before is no try, and costs its time.
    row = interrupts(tmp_path, 2, jobs=3, overrides=QUICK, latest=0.7)
    assert (row.tries, row.held) == (2, 2), capsys.readouterr().out
    assert "SIGKILL after" in (said := capsys.readouterr().out) and "SIGINT after" in said
