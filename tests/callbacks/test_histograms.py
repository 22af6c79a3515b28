"""Histograms of what training had, and the same training with them."""

from __future__ import annotations

import numpy as np
import pytest

from src.callbacks.histograms import Histograms
from src.data.pipeline import InMemory
from tests.callbacks.reading import written
from tests.training.test_trainer import Recorder, assert_same, digits, small_trainer, weights


class Norms(Recorder):
    def on_log(self, state, metrics):
        self.losses += list(state.gradient_norms)


def fit(folder, *, enabled: bool, steps_per_call: int | None = None):
    norms = Norms()
    callbacks = {"histograms": Histograms(directory=str(folder), enabled=enabled), "norms": norms}
    trainer = small_trainer(callbacks=callbacks, steps_per_call=steps_per_call)
    images, labels = digits(64)
    trainer.fit(InMemory(images, labels, batch_size=16, shuffle_seed=0), epochs=2)
    return trainer, norms.losses


@pytest.mark.sample(1)
@pytest.mark.parametrize("steps_per_call", [3, None])
def test_each_weight_and_the_gradient_norms_once_an_epoch(tmp_path, steps_per_call):
    trainer, norms = fit(tmp_path, enabled=True, steps_per_call=steps_per_call)
    found = written(tmp_path)
    assert set(found) == {("train", name) for name in ["gradient_norms", *(w.path for w in trainer.model.weights)]}
    assert all([step for step, _ in points] == [4, 8] for points in found.values())
    for weight in trainer.model.weights:  # rows are left edge, right edge, count
        buckets, values = found["train", weight.path][-1][1], weight.numpy()
        assert buckets[:, 2].sum() == values.size
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((values.min(), values.max()), rel=1e-5, abs=1e-6)
    for epoch in range(2):
        buckets, expected = found["train", "gradient_norms"][epoch][1], norms[4 * epoch : 4 * epoch + 4]
        assert buckets[:, 2].sum() == 4
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((min(expected), max(expected)), rel=1e-5)


@pytest.mark.exhaustive
def test_training_is_the_same_with_and_without(tmp_path):
    (one, norms), (other, same) = (fit(tmp_path / str(on), enabled=on) for on in (False, True))
    assert_same(weights(one), weights(other))
    np.testing.assert_array_equal(norms, same)
    assert not (tmp_path / "False").exists()
