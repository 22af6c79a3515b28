"""Early stopping from a table of values: values in, the epoch of the stop out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from src.callbacks.early_stopping import EarlyStopping
from src.training.state import TrainState


class State(SimpleNamespace):
    is_better = TrainState.is_better

    def memory(self, name):
        return self.memories.setdefault(name, {})


def stops_at(values, *, resumed_after=None, mode="min", **options) -> int | None:
    state = State(monitor="val/loss", mode=mode, memories={})
    callback = EarlyStopping(**options)
    callback.name = "early_stopping"
    for epoch, value in enumerate(values, start=1):
        if reason := callback.on_epoch_end(state, {"val/loss": value}):
            assert reason == f"val/loss has not improved for {options['patience']} epochs"
            return epoch
        if epoch == resumed_after:
            callback = EarlyStopping(**options)
            callback.name = "early_stopping"
    return None


@pytest.mark.parametrize(
    ("values", "options", "epoch"),
    [
        ([3, 2, 1, 0], {"patience": 1}, None),
        ([1, 2, 3, 4], {"patience": 1}, 2),
        ([1, 2, 3, 4], {"patience": 3}, 4),
        ([1, 2, 0.5, 2, 2], {"patience": 2}, 5),
        ([1, 1, 1], {"patience": 2}, 3),
        ([1, 0.95, 0.9, 0.85], {"patience": 2, "min_delta": 0.2}, 3),
        ([1, 0.9, 0.75, 0.7], {"patience": 2, "min_delta": 0.2}, None),
        ([0.1, 0.2, 0.3, 0.3, 0.3], {"patience": 2, "mode": "max"}, 5),
        ([math.nan, math.nan, 1], {"patience": 2}, 2),
        ([1, math.nan, 0.5, math.nan, math.nan], {"patience": 2}, 5),
    ],
)
@pytest.mark.parametrize("resumed_after", [None, 1, 2, 3])
def test_table(values, options, epoch, resumed_after):
    """Patience is counted on over a resume."""
    assert stops_at(values, resumed_after=resumed_after, **options) == epoch


@pytest.mark.parametrize(("options", "message"), [({"patience": 0}, "patience is 0"), ({"min_delta": -1}, "min_delta")])
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**{"patience": 1, **options})
