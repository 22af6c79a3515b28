"""What mattered, beside calculations by hand."""

from __future__ import annotations

import itertools

import pytest

from src.comparison.effects import effects
from tests.comparison.made import make_run, rows_in


def test_the_share_of_the_variance_that_each_key_explains(tmp_path):
    results = {("adam", 0): 0.5, ("adam", 1): 0.7, ("sgd", 0): 0.1, ("sgd", 1): 0.3}
    for (optimizer, seed), best in results.items():
        make_run(tmp_path, f"{optimizer}-{seed}", optimizer=optimizer, seed=seed, best=best)
    make_run(tmp_path, "unfinished", optimizer="rmsprop", best=0.99, status="interrupted")
    optimizer, seed = effects(rows_in(tmp_path))
    # All runs: mean 0.4, squares 0.01 + 0.09 + 0.09 + 0.01. Optimizers: means 0.6 and 0.2. Seeds: 0.3 and 0.5.
    assert (optimizer.key, seed.key) == ("optimizer", "seed")
    assert optimizer.explained == pytest.approx(0.16 / 0.2) and seed.explained == pytest.approx(0.04 / 0.2)
    assert optimizer.by_chance == pytest.approx(1 / 3)
    assert [(level.value, len(level.results)) for level in optimizer.levels] == [("adam", 2), ("sgd", 2)]
    assert optimizer.levels[0].mean == pytest.approx(0.6)
    assert optimizer.levels[0].deviation == pytest.approx(0.02**0.5)


def test_many_numbers_are_put_into_ranges_that_hold_all_runs(tmp_path):
    for number in range(20):
        rate = 10 ** (-number / 5)
        make_run(tmp_path, str(number), best=number / 100, config={"optimizer.learning_rate": rate})
    [effect] = effects(rows_in(tmp_path))
    assert effect.key == "optimizer.learning_rate"
    assert [len(level.results) for level in effect.levels] == [4] * 5
    assert effect.levels[0].value == "0.000158 to 0.000631"
    assert effect.explained > 0.9


def test_equal_results_have_nothing_to_explain(tmp_path):
    for optimizer, seed in itertools.product(("adam", "sgd"), (0, 1)):
        make_run(tmp_path, f"{optimizer}-{seed}", optimizer=optimizer, seed=seed, best=0.1)
    assert {effect.explained for effect in effects(rows_in(tmp_path))} == {None}


def test_each_monitor_has_effects_of_its_own(tmp_path):
    for monitor, mode in (("val/accuracy", "max"), ("val/loss", "min")):
        for seed in (0, 1):
            make_run(tmp_path, f"{mode}-{seed}", seed=seed, best=seed / 2, monitor=monitor, mode=mode, history=[])
    found = effects(rows_in(tmp_path))
    assert [(effect.key, effect.monitor) for effect in found] == [("seed", "val/accuracy"), ("seed", "val/loss")]
    assert [[level.value for level in effect.levels] for effect in found] == [[1, 0], [0, 1]]  # the best first


def test_the_smallest_results_have_shares_too(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, str(seed), seed=seed, best=(seed + 1) * 1e-200, history=[])
    assert [effect.explained for effect in effects(rows_in(tmp_path))] == [pytest.approx(1.0)]
