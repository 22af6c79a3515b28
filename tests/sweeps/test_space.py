"""Whatever a study suggests is typed so that it comes back the same, and lies in the space that was asked for."""

from __future__ import annotations

import math

import optuna
import pytest
from hydra.core.override_parser.types import Override
from hypothesis import assume, given, strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from src.config.compose import ConfigError, compose, parse_override
from src.sweeps.space import Space
from tests.support.helpers import DIGITS

optuna.logging.set_verbosity(optuna.logging.WARNING)
KEY = "+x.y"
FINITE = st.floats(-1e300, 1e300, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-300)
SEEDS = st.integers(0, 2**31)


def space(*typed: str, **params: str) -> Space:
    return Space.parse(typed, params)


def suggested(of: Space, seed: int, count: int = 3) -> list[Override]:
    """What the parser makes of a few trials' last overrides."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trials = [study.ask(fixed_distributions=of.distributions) for _ in range(count)]
    return [parse_override(of.overrides(trial.params)[-1]) for trial in trials]


def same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


@given(st.lists(FINITE, min_size=2, max_size=2, unique=True).map(sorted), SEEDS)
def test_a_float_of_an_interval_comes_back(ends, seed):
    assume(math.isfinite(ends[1] - ends[0]))
    found = space(f"{KEY}=interval({ends[0]!r},{ends[1]!r})")
    for override in suggested(found, seed):
        assert override.get_key_element() == KEY
        assert isinstance(override.value(), float) and ends[0] <= override.value() <= ends[1]


@given(st.floats(1e-12, 1e12), st.floats(1.0001, 1e6), SEEDS)
def test_a_logarithmic_interval_is_searched_by_orders_of_magnitude(low, factor, seed):
    found = space(f"{KEY}=tag(log,interval({low!r},{low * factor!r}))")
    assert found.distributions["x.y"] == FloatDistribution(low, low * factor, log=True)
    assert all(low <= override.value() <= low * factor for override in suggested(found, seed))


@given(st.integers(-1000, 1000), st.integers(0, 1000), SEEDS)
@pytest.mark.parametrize("form", ["int(interval({},{}))", "tag(int,interval({},{}))"])
def test_an_interval_of_whole_numbers_has_both_ends(form, low, width, seed):
    found = space(f"{KEY}={form.format(low, low + width)}")
    assert found.distributions["x.y"] == IntDistribution(low, low + width)
    for override in suggested(found, seed):
        assert type(override.value()) is int and low <= override.value() <= low + width


@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(-9, 9).filter(bool), SEEDS)
def test_a_range_is_hydras_and_its_end_is_no_part_of_it(start, stop, step, seed):
    assume(values := list(range(start, stop, step)))
    found = space(f"{KEY}=range({start},{stop},{step})")
    assert found.grid == {"x.y": sorted(values)}
    assert all(type(o.value()) is int and o.value() in values for o in suggested(found, seed))


@given(st.floats(-10, 10), st.floats(0.001, 10), st.integers(1, 30), st.booleans(), SEEDS)
def test_a_range_of_floats_has_the_very_numbers_of_a_grid(start, step, count, down, seed):
    step = -step if down else step
    typed = f"{KEY}=range({start!r},{start + (count - 0.5) * step!r},{step!r})"
    of_grid = [float(text) for text in parse_override(typed).sweep_string_iterator()]
    found = space(typed)
    assert found.grid == {"x.y": sorted(of_grid)}
    assert all(override.value() in of_grid for override in suggested(found, seed))
    ends = [parse_override(overrides[-1]).value() for _, overrides in found.probes()]
    assert ends == sorted({min(of_grid), max(of_grid)})


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="$\\", exclude_categories=("C",)), max_size=8)
LEAVES = st.one_of(st.integers(), FINITE, st.booleans(), WORDS, st.sampled_from(["1", "1e3", "null", "true", "a b"]))


@given(st.lists(LEAVES, min_size=1, max_size=5), SEEDS)
def test_a_choice_keeps_what_it_is(values, seed):
    quoted = [f"'{v.replace(chr(39), chr(92) + chr(39))}'" if isinstance(v, str) else str(v) for v in values]
    found = space(f"{KEY}=choice({','.join(quoted)})")
    for override in suggested(found, seed):
        assert any(same(override.value(), value) for value in values)


def test_simple_choices_may_be_null_lists_and_quoted():
    found = space(f"{KEY}=null,'null',[1,'2'],1,'1',1.0,true,a")
    values = [parse_override(overrides[-1]).value() for _, overrides in found.probes()]
    assert values == [None, "null", [1, "2"], 1, "1", 1.0, True, "a"]
    assert [type(value) for value in values[3:7]] == [int, str, float, bool]


@given(st.floats(1e-12, 1e3))
def test_a_number_is_the_same_in_the_composed_config(value):
    found = space(*DIGITS, "optimizer.learning_rate=interval(0,2000)")
    assert compose(found.overrides({"optimizer.learning_rate": value})).optimizer.learning_rate == value


def test_what_is_typed_comes_before_what_a_file_says():
    typed = ["data=digits", "model.filters=range(4,16,4)", "batch_size=8"]
    found = Space.parse(typed, {"model.filters": "interval(1,9)", "batch_size": "16,32", "seed": "0,1", "epochs": 3})
    assert found.fixed == ("epochs=3", "data=digits", "batch_size=8")
    assert [dimension.key for dimension in found.dimensions] == ["seed", "model.filters"]
    assert found.overrides({"seed": "1", "model.filters": 8})[-2:] == ["seed=1", "model.filters=8"]


def test_whole_numbers_where_the_key_has_one():
    found = space("filters=interval(4,16)", "rate=interval(0,1)", "odd=interval(0.5,2)", "+new=interval(1,2)")
    defaults = {"filters": 8, "rate": 0.1, "odd": 1, "new": None}
    kinds = {key: type(of) for key, of in found.whole(defaults.get).distributions.items()}
    assert kinds == {"filters": IntDistribution, **dict.fromkeys(["rate", "odd", "new"], FloatDistribution)}
    assert found.discrete() == []


def test_probes_show_each_value_alone():
    found = space("a=x,y", "b=interval(0.0,1.0)", "c=range(0,7,3)", "d=1")
    assert [overrides for _, overrides in found.probes()] == [
        ["d=1", "a=x", "b=0.0", "c=0"],
        ["d=1", "a=y", "b=0.0", "c=0"],
        ["d=1", "a=x", "b=0.0", "c=0"],
        ["d=1", "a=x", "b=1.0", "c=0"],
        ["d=1", "a=x", "b=0.0", "c=0"],
        ["d=1", "a=x", "b=0.0", "c=6"],
    ]
    assert found.distributions["a"] == CategoricalDistribution(("x", "y")) and found.grid is None
    assert found.described() == ["a: one of x, y", "b: 0 to 1", "c: 0 to 6, whole numbers, step 3"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a=range(3,1)", "the range is empty; its end is not part of it"),
        ("a=range(1,3,0)", "must not be zero"),
        ("a=range(0.5,3,0)", "Invalid range"),
        ("a=interval(2,1)", "from its lower end to its higher one"),
        ("a=interval(0,inf)", "both of them numbers"),
        ("a=interval(nan,1)", "both of them numbers"),
        ("a=tag(log,interval(0,1))", "must begin above 0"),
        ("a=tag(int,interval(0.5,1))", "has whole ends"),
        ("a=tag(lin,interval(0,1))", "lin is no tag"),
        ("a=tag(log,choice(1,2))", "log is no tag"),
        ("a=glob(*)", "list the values"),
        ("a=choice()", "empty choice"),
        ("a", "give a=..."),
    ],
)
def test_what_is_wrong_is_named(typed, message):
    with pytest.raises(ConfigError, match=rf"^'?{typed[:4]}") as raised:
        Space.parse([typed])
    assert message in str(raised.value)


@pytest.mark.parametrize("value", [[16, 32], {"learning_rate": "interval(0,1)"}])
def test_params_are_one_text_a_key(value):
    with pytest.raises(ConfigError, match="one text a key"):
        Space.parse([], {"optimizer": value})
