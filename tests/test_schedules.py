"""Schedules follow their formula, meet the ends they promise, and name the key of a bad value."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from src.schedules import WarmupCosine, constant, cosine

RUN = {"learning_rate": 3e-3, "steps_per_epoch": 10, "total_steps": 100}


def reference(step: int, peak: float, total: int, warmup: int, final: float) -> float:
    """The docstring's formula, in Python floats."""
    step = min(step, total - 1)
    if step < warmup:
        return peak * (step + 1) / warmup
    start = warmup - 1 if warmup else 0
    t = (step - start) / (total - 1 - start) if total > 1 else 0.0
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * t)) / 2)


def rates(schedule, steps) -> np.ndarray:
    return np.array([schedule(tf.constant(step, tf.int64)) for step in steps])


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 400),
    share=st.floats(0, 0.999),
    final=st.floats(0, 1),
    peak=st.floats(1e-6, 10),
    data=st.data(),
)
def test_cosine_against_reference(total, share, final, peak, data):
    warmup = min(round(share * total), total - 1)
    schedule = cosine(
        learning_rate=peak, steps_per_epoch=7, total_steps=total, warmup_fraction=share, final_fraction=final
    )
    ends = {0, max(warmup - 1, 0), warmup, total - 1, total, 10 * total}
    steps = sorted(ends | data.draw(st.sets(st.integers(0, total + 5), max_size=8)))
    got = rates(schedule, steps)
    want = [reference(step, peak, total, warmup, final) for step in steps]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * peak)

    at = dict(zip(steps, got, strict=True))
    assert at[0] > 0
    assert at[max(warmup - 1, 0)] == pytest.approx(peak, rel=1e-6)
    assert at[total - 1] == at[total] == at[10 * total]
    if total > 1:
        assert at[total - 1] == pytest.approx(final * peak, rel=1e-6, abs=1e-7 * peak)


@settings(max_examples=15, deadline=None)
@given(total=st.integers(2, 60), share=st.floats(0, 0.999))
def test_rises_then_falls(total, share):
    schedule = cosine(learning_rate=1.0, steps_per_epoch=7, total_steps=total, warmup_fraction=share)
    change = np.diff(rates(schedule, range(total)))
    peak = max(schedule.warmup_steps - 1, 0)
    assert (change[:peak] > 0).all() and (change[peak:] < 0).all()


def test_length_in_epochs_or_as_a_fraction():
    by_epochs = cosine(**RUN, warmup_epochs=2.5)
    by_fraction = cosine(**RUN, warmup_fraction=0.25)
    assert by_epochs.warmup_steps == by_fraction.warmup_steps == 25
    assert cosine(**RUN).warmup_steps == cosine(**RUN, warmup_epochs=0).warmup_steps == 0


def test_constant():
    for options in ({}, {"warmup_epochs": 0}, {"warmup_fraction": 0.0}):
        rate = constant(**RUN, **options)
        assert type(rate) is float and rate == 3e-3
    got = rates(constant(**RUN, warmup_epochs=1), [0, 4, 9, 10, 50, 99, 100, 10**9])
    np.testing.assert_allclose(got, np.array([0.1, 0.5, 1, 1, 1, 1, 1, 1]) * 3e-3, rtol=1e-6)


def test_inside_a_graph_with_int64_steps():
    schedule = cosine(**RUN, warmup_epochs=1, final_fraction=0.1)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def graph(step):
        traces.append(step)
        return schedule(step)

    steps = (0, 9, 50, 99, 2**40)
    got = [graph(step) for step in steps]
    assert len(traces) == 1
    assert {rate.dtype for rate in got} == {tf.float32}
    np.testing.assert_allclose(got, [reference(step, 3e-3, 100, 10, 0.1) for step in steps], rtol=1e-5)


def test_optimizer_follows_the_schedule():
    schedule = cosine(**RUN, warmup_epochs=1)
    weight = keras.Variable(0.0)
    optimizer = keras.optimizers.SGD(schedule)
    for step in range(3):
        before = float(weight.numpy())
        optimizer.apply([tf.constant(-1.0)], [weight])
        assert float(weight.numpy()) - before == pytest.approx(float(schedule(step)), rel=1e-4)


def test_serialize_round_trip():
    schedule = cosine(**RUN, warmup_epochs=1, final_fraction=0.1)
    config = keras.optimizers.schedules.serialize(schedule)
    assert config["registered_name"] == "src>WarmupCosine"
    again = keras.optimizers.schedules.deserialize(config)
    assert isinstance(again, WarmupCosine) and again.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(again, range(0, 110, 7)), rates(schedule, range(0, 110, 7)))

    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(schedule)))
    assert optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()


@pytest.mark.parametrize("build", [constant, cosine])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must be .* above 0, not 0\.0"),
        ({"learning_rate": -1e-3}, r"learning_rate must be .* not -0\.001"),
        ({"learning_rate": math.nan}, "learning_rate must be .* not nan"),
        ({"learning_rate": math.inf}, "learning_rate must be .* not inf"),
        ({"warmup_epochs": -1}, r"schedule\.warmup_epochs must be at least 0 .* not -1"),
        ({"warmup_epochs": 10}, r"schedule\.warmup_epochs must be .* less than the run's 10 epochs, not 10"),
        ({"warmup_epochs": math.nan}, r"schedule\.warmup_epochs must be .* not nan"),
        ({"warmup_fraction": 1.0}, r"schedule\.warmup_fraction must be in \[0, 1\), not 1\.0"),
        ({"warmup_fraction": -0.1}, r"schedule\.warmup_fraction must be in \[0, 1\), not -0\.1"),
        (
            {"warmup_epochs": 1, "warmup_fraction": 0.1},
            r"warmup_epochs=1 and schedule\.warmup_fraction=0\.1 both",
        ),
    ],
)
def test_bad_values(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**{**RUN, **options})


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_bad_final_fraction(value):
    with pytest.raises(ValueError, match=rf"schedule\.final_fraction must be in \[0, 1\], not {value}"):
        cosine(**RUN, final_fraction=value)
