"""A sweep whose parent is killed or stopped leaves no process behind, and the same command completes it exactly."""

from __future__ import annotations

import pytest

from benchmarks.campaigns import ALL_STATE
from benchmarks.sweeps import interrupts

QUICK = ("epochs=2", "callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")


@pytest.mark.slow
def test_a_killed_and_a_stopped_sweep_end_as_an_undisturbed_one(tmp_path, capsys):
    # Late moments are left to the benchmark: a sweep that is over before is no try, and costs its time.
    row = interrupts(tmp_path, 2, jobs=3, overrides=[*ALL_STATE, *QUICK], latest=0.7)
    assert (row.tries, row.held) == (2, 2), capsys.readouterr().out
    assert "SIGKILL after" in (said := capsys.readouterr().out) and "SIGINT after" in said
