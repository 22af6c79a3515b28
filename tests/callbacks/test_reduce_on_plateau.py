"""When the rate is lowered, from tables of values."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from src.callbacks.reduce_on_plateau import ReduceOnPlateau
from src.data.pipeline import InMemory
from src.training.checkpoints import Checkpoints
from tests.training.test_trainer import assert_same, digits, small_trainer, weights


def rates(values, *, mode="min", **options) -> list[float]:
    """The learning rate after each epoch with one of these values; None is an epoch without validation."""
    trainer = small_trainer(optimizer=keras.optimizers.SGD(1.0), monitor="val/loss", mode=mode)
    callback, state = ReduceOnPlateau(**{"factor": 0.5, "patience": 2, **options}), trainer.state
    callback.name = "plateau"
    callback.on_train_begin(state)
    found = []
    for value in values:
        metrics = {"train/loss": 0.0} | ({} if value is None else {"val/loss": value})
        state.end_epoch(metrics)
        callback.on_epoch_end(state, metrics)
        found.append(float(state.optimizer.learning_rate))
    return found


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([3, 2, 1, 0], {}, [1, 1, 1, 1]),
        ([1, 1, 1, 1, 1], {}, [1, 1, 0.5, 0.5, 0.25]),
        ([1, 2, 0.5, 2, 2, 2, 2], {}, [1, 1, 1, 1, 0.5, 0.5, 0.25]),
        ([1, 0.95, 0.9], {"min_delta": 0.2}, [1, 1, 0.5]),
        ([1, 2, 3], {"mode": "max"}, [1, 1, 1]),
        ([3, 2, 1], {"mode": "max"}, [1, 1, 0.5]),
        ([1, float("nan"), float("nan")], {}, [1, 1, 0.5]),
        ([1, None, 1, None, 1], {}, [1, 1, 1, 1, 0.5]),
        ([1] * 4, {"patience": 1, "factor": 0.1, "min_learning_rate": 0.05}, [1, 0.1, 0.05, 0.05]),
    ],
)
def test_rates(values, options, expected):
    np.testing.assert_allclose(rates(values, **options), expected, rtol=1e-6)


def test_a_lowered_rate_survives_a_resume(tmp_path):
    def trainer():
        plateau = ReduceOnPlateau(factor=0.5, patience=1, min_delta=10.0)
        return small_trainer(optimizer=keras.optimizers.SGD(0.5), callbacks={"plateau": plateau})

    data = InMemory(*digits(32), batch_size=16, shuffle_seed=0)
    straight, first, second = trainer(), trainer(), trainer()
    straight.fit(data, epochs=4)
    first.fit(data, epochs=2)
    Checkpoints(tmp_path).save(first.state)
    Checkpoints(tmp_path).restore(second.state)
    second.fit(data, epochs=4)
    assert float(second.optimizer.learning_rate) == 0.5 / 8
    assert_same(weights(second), weights(straight))


def test_a_schedule_of_its_own_is_refused():
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    plateau = {"plateau": ReduceOnPlateau()}
    with pytest.raises(ValueError, match=r"callback plateau .* schedule=reduce_on_plateau"):
        small_trainer(optimizer=keras.optimizers.SGD(rate), callbacks=plateau).fit(
            InMemory(*digits(16), batch_size=16), epochs=1
        )


@pytest.mark.parametrize("option", [{"factor": 1}, {"factor": 0}, {"patience": 0}, {"min_delta": -1}])
def test_impossible_options(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is "):
        ReduceOnPlateau(**option)
