"""Schedules follow their formula, meet the ends they promise, and name the key of a bad value."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, strategies as st

from src.schedules import Schedule, constant, cosine, exponential, one_cycle, piecewise, polynomial

RUN = {"learning_rate": 3e-3, "steps_per_epoch": 10, "total_steps": 100}
WARMING = (constant, cosine, polynomial, exponential, piecewise)
FALLING = (cosine, polynomial, exponential)


def rates(schedule: Schedule, steps) -> np.ndarray:
    return np.array([schedule(tf.constant(step, tf.int64)) for step in steps])


def half_cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


# Each shape once more, of the steps done since the peak, the steps from the peak to the end, the steps from the start.
REFERENCES: dict[Callable, Callable] = {
    constant: lambda since, left, done, o: 1.0,
    cosine: lambda since, left, done, o: half_cosine(1, o["final_fraction"], since / left if left else 0),
    polynomial: lambda since, left, done, o: (
        o["final_fraction"] + (1 - o["final_fraction"]) * (1 - (since / left if left else 0)) ** o["power"]
    ),
    exponential: lambda since, left, done, o: (
        o["decay_per_epoch"] ** (since / 7)
        if o.get("decay_per_epoch")
        else o["final_fraction"] ** (since / left if left else 0)
    ),
}
OPTIONS = {
    constant: st.just({}),
    cosine: st.fixed_dictionaries({"final_fraction": st.floats(0, 1)}),
    polynomial: st.fixed_dictionaries({"final_fraction": st.floats(0, 1), "power": st.floats(0.2, 5)}),
    exponential: st.fixed_dictionaries(
        {"final_fraction": st.floats(1e-4, 1)}, optional={"decay_per_epoch": st.floats(0.5, 1)}
    ),
}


@pytest.mark.parametrize("build", REFERENCES, ids=lambda build: build.__name__)
@given(total=st.integers(1, 400), share=st.floats(0, 0.999), peak=st.floats(1e-6, 10), data=st.data())
def test_against_reference(build, total, share, peak, data):
    warmup = min(round(share * total), total - 1)
    options = data.draw(OPTIONS[build])
    schedule = build(learning_rate=peak, steps_per_epoch=7, total_steps=total, warmup_fraction=share, **options)
    if isinstance(schedule, float):
        assert warmup == 0 and build is constant and schedule == peak
        return
    first, last = max(warmup - 1, 0), total - 1
    steps = sorted(
        {0, first, warmup, last, total, 10 * total} | data.draw(st.sets(st.integers(0, total + 5), max_size=8))
    )
    at = dict(zip(steps, rates(schedule, steps), strict=True))
    for step, rate in at.items():
        done = min(step, last)
        share_of_peak = REFERENCES[build](max(done - first, 0), last - first, done, options)
        expected = peak * share_of_peak * (min((done + 1) / warmup, 1) if warmup else 1)
        assert rate == pytest.approx(expected, rel=2e-7, abs=1e-12 * peak)
    assert at[0] > 0 and at[first] == np.float32(peak)
    assert at[last] == at[total] == at[10 * total]
    if total > 1 and "decay_per_epoch" not in options:
        assert at[last] == pytest.approx(peak * options.get("final_fraction", 1), rel=1e-7, abs=1e-16 * peak)


@given(
    boundaries=st.lists(st.floats(0.3, 0.99), min_size=1, max_size=4, unique=True).map(sorted),
    total=st.integers(1, 60),
    warmup=st.sampled_from([None, 0.1, 0.25]),
    data=st.data(),
)
def test_piecewise_against_reference(boundaries, total, warmup, data):
    factors = data.draw(st.lists(st.floats(0, 2), min_size=len(boundaries), max_size=len(boundaries)))
    options = {"learning_rate": 0.1, "steps_per_epoch": 7, "total_steps": total, "warmup_fraction": warmup}
    schedule = piecewise(**options, boundaries_fractions=boundaries, factors=factors)
    warmup_steps = min(round((warmup or 0) * total), total - 1)
    for step in range(total):
        factor = 1.0
        for boundary, after in zip(boundaries, factors, strict=True):
            if step >= max(round(boundary * total), 1):
                factor = after
        expected = 0.1 * (step + 1) / warmup_steps if step < warmup_steps else 0.1 * factor
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-6)


@given(
    total=st.integers(1, 60),
    at=st.floats(0.01, 0.99),
    start=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_one_cycle_against_reference(total, at, start, final):
    schedule = one_cycle(
        learning_rate=0.1,
        steps_per_epoch=7,
        total_steps=total,
        peak_fraction=at,
        start_fraction=start,
        final_fraction=final,
    )
    peak, last, got = round(at * (total - 1)), total - 1, rates(schedule, range(total + 3))
    for step, rate in enumerate(got):
        if step < peak:
            expected = half_cosine(start, 1, step / peak)
        else:
            expected = half_cosine(1, final, (min(step, last) - peak) / (last - peak)) if last > peak else 1.0
        assert rate == pytest.approx(0.1 * expected, rel=1e-6, abs=1e-12)
    assert got[peak] == np.float32(0.1)
    assert (np.diff(got[: peak + 1]) >= 0).all() and (np.diff(got[peak:]) <= 0).all()


@pytest.mark.parametrize("build", FALLING, ids=lambda build: build.__name__)
@given(total=st.integers(2, 60), share=st.floats(0, 0.999))
def test_rises_then_falls(build, total, share):
    schedule = build(learning_rate=1.0, steps_per_epoch=7, total_steps=total, warmup_fraction=share)
    change = np.diff(rates(schedule, range(total)))
    peak = max(schedule.warmup_steps - 1, 0)
    assert (change[:peak] > 0).all() and (change[peak:] < 0).all()


def test_length_in_epochs_or_as_a_fraction():
    by_epochs = cosine(**RUN, warmup_epochs=2.5)
    by_fraction = cosine(**RUN, warmup_fraction=0.25)
    assert by_epochs.warmup_steps == by_fraction.warmup_steps == 25
    assert cosine(**RUN).warmup_steps == cosine(**RUN, warmup_epochs=0).warmup_steps == 0
    steps = piecewise(**RUN, boundaries_epochs=[0.3, 5], factors=[0.5, 0.1])
    np.testing.assert_allclose(rates(steps, [0, 2, 3, 49, 50, 99]) / 3e-3, [1, 1, 0.5, 0.5, 0.1, 0.1], rtol=1e-6)
    decay = exponential(**RUN, decay_per_epoch=0.5)
    np.testing.assert_allclose(rates(decay, [0, 10, 20, 40]) / 3e-3, [1, 0.5, 0.25, 0.0625], rtol=1e-6)


def test_constant():
    for options in ({}, {"warmup_epochs": 0}, {"warmup_fraction": 0.0}):
        rate = constant(**RUN, **options)
        assert type(rate) is float and rate == 3e-3
    got = rates(constant(**RUN, warmup_epochs=1), [0, 4, 9, 10, 50, 99, 100, 10**9])
    np.testing.assert_allclose(got, np.array([0.1, 0.5, 1, 1, 1, 1, 1, 1]) * 3e-3, rtol=1e-6)


EACH = {
    "constant": constant(**RUN, warmup_epochs=1),
    "cosine": cosine(**RUN, warmup_epochs=1, final_fraction=0.1),
    "polynomial": polynomial(**RUN, warmup_epochs=1, final_fraction=0.1, power=0.9),
    "exponential": exponential(**RUN, warmup_epochs=1, final_fraction=0.1),
    "piecewise": piecewise(**RUN, warmup_epochs=1),
    "one_cycle": one_cycle(**RUN),
}


@pytest.mark.parametrize("schedule", EACH.values(), ids=EACH)
def test_eager_code_a_graph_and_xla_give_the_same_bits(schedule):
    """Of int64 steps, traced once."""
    steps, traces = [*range(102), 2**40], []
    expected = rates(schedule, steps)
    assert expected.dtype == np.float32

    def rate(step):
        traces.append(step)
        return schedule(step)

    for jit_compile in (False, True):
        graph = tf.function(rate, input_signature=[tf.TensorSpec([], tf.int64)], jit_compile=jit_compile)
        np.testing.assert_array_equal([graph(step) for step in steps], expected)
    assert len(traces) == 2


@pytest.mark.parametrize("schedule", EACH.values(), ids=EACH)
def test_serialize_round_trip(schedule):
    config = keras.optimizers.schedules.serialize(schedule)
    assert config["registered_name"] == "src>Schedule"
    again = keras.optimizers.schedules.deserialize(config)
    assert isinstance(again, Schedule) and again.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(again, range(0, 110, 7)), rates(schedule, range(0, 110, 7)))
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(schedule)))
    assert optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()


def test_optimizer_follows_the_schedule():
    schedule = cosine(**RUN, warmup_epochs=1)
    weight = keras.Variable(0.0)
    optimizer = keras.optimizers.SGD(schedule)
    for step in range(3):
        before = float(weight.numpy())
        optimizer.apply([tf.constant(-1.0)], [weight])
        assert float(weight.numpy()) - before == pytest.approx(float(schedule(step)), rel=1e-4)


@pytest.mark.parametrize("build", [*WARMING, one_cycle])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf])
def test_bad_learning_rate(build, value):
    with pytest.raises(ValueError, match=f"learning_rate is {value}; it must be a number above 0"):
        build(**{**RUN, "learning_rate": value})


@pytest.mark.parametrize("build", WARMING)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs is -1; it must be a number at least 0, or null"),
        ({"warmup_epochs": 10}, "warmup_epochs is 10; it must be less than the run's 10 epochs"),
        ({"warmup_epochs": math.nan}, "warmup_epochs is nan; it must be"),
        ({"warmup_fraction": 1.0}, "warmup_fraction is 1.0; it must be a number at least 0 and below 1, or null"),
        ({"warmup_fraction": -0.1}, "warmup_fraction is -0.1; it must be a number at least 0 and below 1"),
        (
            {"warmup_epochs": 1, "warmup_fraction": 0.1},
            r"warmup_epochs=1 and schedule\.warmup_fraction=0\.1 both",
        ),
    ],
)
def test_bad_warmup(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**RUN, **options)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        *((build, {"final_fraction": v}, f"final_fraction is {v}; it must be a number at least 0 and at most 1")
          for build in (cosine, polynomial, one_cycle) for v in (-0.1, 1.1, math.nan)),
        (polynomial, {"power": 0}, "power is 0; it must be a number above 0"),
        (polynomial, {"power": math.nan}, "power is nan; it must be"),
        (exponential, {"final_fraction": 0}, "final_fraction is 0; it must be a number above 0 and at most 1"),
        (exponential, {"decay_per_epoch": 1.1}, "decay_per_epoch is 1.1; it must be a number above 0 and at most 1"),
        (piecewise, {"boundaries_fractions": [0.5, 0.5]}, r"boundaries_fractions must rise, .* not \[0\.5, 0\.5"),
        (piecewise, {"boundaries_fractions": []}, r"boundaries_fractions must rise"),
        (piecewise, {"boundaries_epochs": [5, 10]}, r"boundaries_epochs must rise, .* below 10 \(of the run\)"),
        (piecewise, {"boundaries_epochs": [1, 5], "warmup_epochs": 2}, "boundaries_epochs must rise, above 2 "),
        (piecewise, {"boundaries_epochs": 5}, "boundaries_epochs is 5; it must be a list, each a number above 0"),
        (piecewise, {"factors": [0.1]}, r"factors must be one for each of the 2 schedule\.boundaries_fractions"),
        (piecewise, {"factors": [0.1, -1]}, r"factors is \[0\.1, -1\]; it must be a list, each a number at least 0"),
        (one_cycle, {"peak_fraction": 1}, "peak_fraction is 1; it must be a number above 0 and below 1"),
        (one_cycle, {"start_fraction": 2}, "start_fraction is 2; it must be a number at least 0 and at most 1"),
    ],
)  # fmt: skip
def test_bad_shape(build, options, message):
    with pytest.raises(ValueError, match=rf"^(schedule\.)?{message}"):
        build(**RUN, **options)
