"""What mattered, beside calculations by hand."""

from __future__ import annotations

import itertools

import pytest

from src.comparison.effects import effects
from tests.comparison.made import make_run, rewrite, rows_in


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


def test_a_key_is_compared_among_the_runs_that_have_it(tmp_path):
    """Models without dropout have no rate of it: cnn is better than mlp, and dropout does nothing."""
    for seed, rate in itertools.product((0, 1), (0.1, 0.5)):
        config = {"model._target_": "cnn", "model.dropout": rate}
        make_run(tmp_path, f"cnn-{rate}-{seed}", best=0.9, seed=seed, choices={"model": "cnn"}, config=config)
        rewrite(tmp_path / f"cnn-{rate}-{seed}", best={"value": 0.9 + seed / 100, "epoch": 2, "step": 80})
    for seed in (0, 1):
        config = {"model._target_": "mlp"}
        make_run(tmp_path, f"mlp-{seed}", best=0.5, seed=seed, choices={"model": "mlp"}, config=config)
    found = {effect.key: effect for effect in effects(rows_in(tmp_path))}
    assert set(found) == {"model", "model.dropout", "seed"}
    dropout = found["model.dropout"]
    assert [(level.value, len(level.results)) for level in dropout.levels] == [(0.1, 2), (0.5, 2)]
    assert dropout.explained == pytest.approx(0) and dropout.by_chance == pytest.approx(1 / 3)
    assert found["model"].explained > 0.99 and len(found["model"].points) == 6


def test_a_key_that_is_null_is_a_value(tmp_path):
    """The record leaves nulls out; a part that is there or not has two values, and its own keys one."""
    shift = {"data.transforms.shift._target_": "Shift", "data.transforms.shift.max_pixels": 2}
    for number, config in enumerate(({}, {"trainer.clip_norm": 1.0}, shift, shift | {"trainer.clip_norm": 1.0})):
        make_run(tmp_path, str(number), best=number / 10, config=config)
    clip, moved = sorted(effects(rows_in(tmp_path)), key=lambda effect: effect.explained)
    assert (clip.key, moved.key) == ("trainer.clip_norm", "data.transforms.shift._target_")
    assert [level.value for level in clip.levels] == [1.0, None]
    assert [len(level.results) for level in moved.levels] == [2, 2]


def test_keys_that_always_change_together_are_named_as_one(tmp_path):
    for number, seed in itertools.product(range(3), (0, 1)):
        config = {"optimizer.learning_rate": 0.1 * 2**number, "batch_size": 32 * 2**number}
        make_run(tmp_path, f"{number}-{seed}", best=number / 10 + seed / 100, seed=seed, config=config)
    both, seed = effects(rows_in(tmp_path))
    assert (both.key, seed.key) == ("batch_size, optimizer.learning_rate", "seed")
    assert [level.value for level in both.levels] == ["128, 0.4", "64, 0.2", "32, 0.1"]


def test_many_numbers_change_together_only_where_their_order_does(tmp_path):
    """Each run of a random search has values of its own, which is no sign that they go together."""
    numbers = [(number * 7) % 20 for number in range(20)]
    for number, other in enumerate(numbers):
        config = {"a": float(number), "minus_a": -2.0 * number, "b": float(other)}
        make_run(tmp_path, str(number), best=number / 100, config=config)
    assert [effect.key for effect in effects(rows_in(tmp_path))] == ["a, minus_a", "b"]


def test_what_decides_no_result_is_no_factor(tmp_path):
    """An option of a group without a part of the config sets other keys, which are compared."""
    for number, key in enumerate(("search", "experiment", "debug", "preset")):
        for option in ("x", "y"):
            config = {"optimizer.learning_rate": number / 10, "callback.summaries._target_": option}
            make_run(tmp_path, f"{key}-{option}", best=number / 10, choices={key: option}, config=config, name=option)
    old = make_run(tmp_path, "old", typed=["max_seconds=60", "wait=true"])
    rewrite(old, choices=None, config=None)
    assert {effect.key for effect in effects(rows_in(tmp_path))} == {"optimizer.learning_rate"}
