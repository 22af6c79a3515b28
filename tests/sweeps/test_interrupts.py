"""A sweep whose parent is killed or stopped leaves no process behind, and the same command completes it exactly."""

from __future__ import annotations

import pytest

from benchmarks.sweeps import interrupts

# What all state there is does to a run that goes on is tested in test_resume.py.
QUICK = (
    "data=digits",
    "model=mlp",
    "model.dropout=0.3",
    "epochs=2",
    "callback.export=null",
    "callback.images=null",
    "callback.hparams=null",
    "callback.summaries=null",
)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [["SIGKILL"], pytest.param(["SIGKILL", "SIGINT"], marks=pytest.mark.exhaustive)])
def test_a_killed_and_a_stopped_sweep_end_as_an_undisturbed_one(tmp_path, capsys, signals):
    # Late moments are left to the benchmark: a sweep that is over before is no try, and costs its time.
    row = interrupts(tmp_path, len(signals), jobs=2, overrides=QUICK, latest=0.7)
    said = capsys.readouterr().out
    assert row.tries == row.held == len(signals), said
    assert [name for name in signals if f"{name} after" in said] == signals
