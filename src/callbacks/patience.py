"""How long a run has gone without an improvement, for callbacks that lose patience.

waited = waited_epochs(state, state.memory("early_stopping"), metrics, min_delta=0.001)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.training.state import TrainState


def waited_epochs(
    state: TrainState, memory: dict[str, Any], metrics: Mapping[str, float], *, min_delta: float
) -> int | None:
    """Epochs in a row without an improvement of the monitored metric, with this one; None if it was not measured.

    Args:
        memory: of the callback, where `best` and `waited_epochs` are kept over a resume.
        min_delta: an improvement smaller than this, in the metric's units, counts as none.
    """
    if (value := metrics.get(state.monitor)) is None:
        return None
    best = memory.get("best")
    if value == value and (best is None or state.is_better(value, best, min_delta=min_delta)):
        memory.update(best=value, waited_epochs=0)
    else:
        memory["waited_epochs"] = memory.get("waited_epochs", 0) + 1
    return memory["waited_epochs"]
