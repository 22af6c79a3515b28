"""What an argument may be is said once, in a signature: there the call enforces it, and the early check reads it."""

from __future__ import annotations

import importlib
import inspect
import math
import pickle
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given, strategies

from src.common import ranges
from src.common.errors import ConfigError
from src.common.ranges import Count, Positive, Range, check_of, enforce_ranges, takes
from src.config import signatures, targets
from src.config.compose import compose
from src.data.images.folders import image_folder
from src.training.trainer import Trainer
from tests.support.helpers import ROOT

# Exact as floats, in which NumPy compares.
NUMBERS = strategies.one_of(strategies.floats(), strategies.integers(-(2**50), 2**50), strategies.integers(-3, 3))


@given(NUMBERS, NUMBERS.filter(lambda x: x == x), NUMBERS.filter(lambda x: x == x), *[strategies.booleans()] * 2)
def test_a_range_holds_the_finite_numbers_between_its_ends(value, low, high, above, below):
    expected = (np.greater if above else np.greater_equal)(value, low) & (np.less if below else np.less_equal)(
        value, high
    )
    finite = isinstance(value, int) or np.isfinite(value)
    assert Range(low, high, above=above, below=below).allows(value) == bool(expected and finite)


@pytest.mark.parametrize("value", [True, False, np.True_, "1", None, [1], 1j, math.nan, math.inf, np.float32("nan")])
def test_what_is_no_finite_number_is_in_no_range(value):
    assert not Range().allows(value) and not check_of(Count).allows(value)


@pytest.mark.parametrize(
    ("hint", "allowed", "good", "bad"),
    [
        (Count, "an integer at least 1", [1, np.int64(7), 10**400], [0, 1.0, None, True]),
        (Positive | None, "a number above 0, or null", [1e-9, 3, np.float32(2), None], [0, -1, "1"]),
        (Annotated[float, Range(0, 1, below=True)], "a number at least 0 and below 1", [0, 0.5], [1, -0.1]),
        (Annotated[int, Range(high=2**32 - 1)], "an integer at most 4294967295", [-5, 2**32 - 1], [2**32, 0.5]),
        (Annotated[int | float | None, Range(0, 1)], "a number at least 0 and at most 1, or null", [0.5, None], [2]),
        (Annotated[Count, Range(high=3)], "an integer at least 1 and at most 3", [1, 3], [0, 4]),
        (Literal["min", "max"], "one of min, max", ["min"], ["Min", 1, None]),
        (Literal[1, 3] | None, "one of 1, 3, or null", [3, None], [2, True, 1.0]),
        (Sequence[Positive], "a list, each a number above 0", [[], [1, 0.5], (2,)], [[0], 1, "12", None]),
        (tuple[Count, Count], "a list of 2, each an integer at least 1", [[1, 2]], [[1], [1, 2, 3], [0, 1]]),
        (Annotated[Count | tuple[Count, Count], "a size"], "a size", [3, [1, 2]], [[1], 0]),
    ],
)
def test_types_say_what_is_allowed(hint, allowed, good, bad):
    check = check_of(hint)
    assert check.allowed == allowed
    assert [value for value in good if not check.allows(value)] + [value for value in bad if check.allows(value)] == []


@pytest.mark.parametrize("hint", [int, float | None, Count | Any, Sequence[int], dict[str, Count], tuple[()], "x"])
def test_other_types_are_not_judged(hint):
    assert check_of(hint) is None


def test_a_range_of_something_else_than_numbers_is_a_mistake():
    with pytest.raises(TypeError, match="a Range is of int and float, not of <class 'str'>"):
        check_of(Annotated[str, Range(1)])


@enforce_ranges
def decay(rate: Positive, /, *rest: int, steps: Count = 3, mode: Literal["min", "max"] = "min") -> tuple[Any, ...]:
    return rate, rest, steps, mode


@enforce_ranges
class Noise:
    def __init__(self, stddev: Annotated[float, Range(0, 1)] = 7) -> None:  # a default is its author's
        self.stddev = stddev


@enforce_ranges
@dataclass
class Shift:
    pixels: Count


@takes(Shift)
def blurred(options: Shift) -> int:
    return options.pixels


def test_a_function_that_takes_an_object_of_options_is_called_with_its_fields():
    assert blurred(pixels=2) == 2 and list(inspect.signature(blurred).parameters) == ["pixels"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'pixel'"):
        blurred(pixel=2)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: decay(0), "rate is 0; it must be a number above 0"),
        (lambda: decay(1, steps=2.5), "steps is 2.5; it must be an integer at least 1"),
        (lambda: decay(1, steps=None), "steps is null; it must be an integer at least 1"),
        (lambda: decay(1, mode="mni"), "mode is 'mni'; it must be one of min, max. Did you mean min?"),
        (lambda: Noise(2), "stddev is 2; it must be a number at least 0 and at most 1"),
        (lambda: Noise(stddev=True), "stddev is true; it must be"),
        (lambda: Shift(0), "pixels is 0; it must be an integer at least 1"),
        (lambda: blurred(pixels=0), "pixels is 0; it must be an integer at least 1"),
        (lambda: image_folder(path=".", seed=0, batch_size=0), "batch_size is 0; it must be an integer at least 1"),
    ],
)
def test_a_call_names_argument_value_and_what_is_allowed(call, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        call()


if TYPE_CHECKING:
    from nowhere import Unknown


@enforce_ranges
def partly(rate: Positive, other: Unknown = None) -> None: ...


def test_a_name_for_type_checkers_alone_takes_no_range_away():
    partly(1, 2)
    with pytest.raises(ValueError, match="rate is 0"):
        partly(0)


def test_what_is_decorated_stays_what_it_was():
    assert decay(1, 2, steps=4) == (1, (2,), 4, "min") and Noise().stddev == 7
    assert list(inspect.signature(decay).parameters) == ["rate", "rest", "steps", "mode"]
    assert inspect.getfullargspec(decay).args == ["rate"], "as Keras asks, which looks through no wrapper"
    assert pickle.loads(pickle.dumps(decay)) is decay and pickle.loads(pickle.dumps(Noise(1))).stddev == 1
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        decay()


def named_in_conf():
    files = [yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("conf/**/*.yaml"))]
    named = {node["_target_"] for content in files for _, node in targets.nodes(content)}
    return sorted(name for name in named if name.startswith("src."))


def makers_of(found):
    """The `__init__`s of a class and its bases, as far as each hands on what it does not know."""
    for part in found.__mro__:
        if "__init__" in vars(part):
            yield part.__init__
            kinds = {parameter.kind for parameter in inspect.signature(part.__init__).parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                return


@pytest.mark.parametrize("name", [*named_in_conf(), "src.training.trainer.Trainer"])
def test_of_every_option_the_source_says_what_the_signature_says(name):
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last)
    function = found.__init__ if inspect.isclass(found) else found
    judged: dict = {}
    for maker in makers_of(found) if inspect.isclass(found) else [function]:
        judged = ranges.checks_of(maker) | judged
    read = signatures.checks(name)
    assert {key: check[1:] for key, check in read.items()} == {key: check[1:] for key, check in judged.items()}
    makers = [vars(part).get("__init__") for part in found.__mro__] if inspect.isclass(found) else [found]
    assert not judged or any(hasattr(maker, "__wrapped__") for maker in makers), "an annotation alone refuses nothing"


MINE = """
raise ImportError("it must not be imported")
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from keras import layers
import src.common.ranges as r
from src.common.ranges import Range, enforce_ranges
from . import limits
from .limits import MOST, Size

Rate = typing.Annotated[float, Range(0, 1, above=True)]

def net(input_shape, num_classes: r.Count, *, width: Size = 8, kind: "Literal['a', 'b'] | None" = None): ...

class Base:
    def __init__(self, rate: Rate = 0.5): ...

@enforce_ranges
class Erase(Base):
    def __init__(self, count: typing.Optional[r.Count], levels: Sequence[Rate] = (), **options):
        super().__init__(**options)

class Inherits(Base): ...

class Wider(Base):
    def __init__(self, *, rate: float = 20.0, **options):
        super().__init__(rate=rate / 100, **options)

HIGH = 10
HIGH *= 2

def raised(rate: typing.Annotated[float, Range(0, HIGH)] = 1.0): ...

@dataclass
class Blur:
    pixels: r.Count = 1

@dataclass
class Options(limits.Sized):
    levels: Sequence[Rate] = ()

@r.takes(Options)
def painted(options): ...

def unknown(rate: nowhere.Range(0, 1), size: MOST, other: typing.Annotated[int, Range(MOST + x)]): ...
"""
LIMITS = """
import dataclasses
from typing import Annotated
from src.common import ranges
MOST = 2**5
Size = Annotated[int, ranges.Range(1, MOST - 1)]
Width = Size

@dataclasses.dataclass
class Sized:
    width: Width = 1
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    for name, text in {"__init__": "", "nets": MINE, "limits": LIMITS, "public": "from mine.nets import net"}.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"{name}.py").write_text(text)
    listed = tmp_path / "targets.txt"
    own = [f"{group} mine" for group in ("model", "loss", "metric", "data.transforms", "callback", "schedule")]
    listed.write_text("\n".join([targets.FILE.read_text(), *own]))
    monkeypatch.setattr(targets, "FILE", listed)
    monkeypatch.syspath_prepend(tmp_path)


X = "+data.transforms.x={_target_:mine.nets."


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("+model.width=0", "model.width is 0; it must be an integer at least 1 and at most 31"),
        ("+model.width=32", "model.width is 32; it must be an integer at least 1 and at most 31"),
        ("+model.kind=c", "model.kind is 'c'; it must be one of a, b, or null"),
        (X + "Erase,count:0}", "}: data.transforms.x.count is 0; it must be an integer at least 1, or null"),
        (X + "Erase,count:1,rate:0}", "data.transforms.x.rate is 0; it must be a number above 0 and at most 1"),
        (X + "Erase,count:1,levels:[0.5,2]}", "data.transforms.x.levels is [0.5, 2]; it must be a list, each a num"),
        (X + "Erase,_args_:[0]}", "}: data.transforms.x._args_[0] is 0; it must be an integer"),
        (X + "Inherits,rate:0}", "data.transforms.x.rate is 0; it must be a number above 0 and at most 1"),
        (X + "Inherits,rate:null}", "data.transforms.x.rate is null; it must be a number above 0 and at most 1"),
        (X + "Blur,pixels:0}", "data.transforms.x.pixels is 0; it must be an integer at least 1"),
        (X + "painted,width:0}", "data.transforms.x.width is 0; it must be an integer at least 1 and at most 31"),
        (X + "painted,levels:[2]}", "data.transforms.x.levels is [2]; it must be a list, each a number"),
        ("+callback.x={_target_:mine.nets.Inherits,rate:2}", "}: callback.x.rate is 2; it must be a number above 0"),
        ("+callback.x={_target_:mine.nets.Inherits,rate:'${seed}'} seed=5", "seed is 5; it must be a number above 0"),
        ("+loss.inner=[{_target_:mine.nets.Inherits,rate:2}]", "}]: loss.inner[0].rate is 2; it must be a number"),
    ],
)
def test_a_users_own_ranges_are_read_before_anything_is_imported(mine, command, told):
    own = ["model._target_=mine.public.net"] if "model" in command else []
    with pytest.raises(ConfigError) as refused:
        compose(["data=digits", "model=cnn", *own, *command.split()])
    assert told in str(refused.value) and "mine" not in sys.modules


def test_what_a_function_of_options_takes_is_their_fields(mine):
    assert signatures.names("mine.nets.painted") == ["width", "levels"]


def test_what_is_right_or_not_understood_or_the_runs_own_is_left_to_the_call(mine):
    more = f"{X}Erase,count:null,rate:0.5}} +callback.x={{_target_:mine.nets.unknown,rate:9,size:9,other:9}}"
    compose(["data=digits", "model=cnn", "model._target_=mine.public.net", "+model.width=31", *more.split()])
    assert "mine" not in sys.modules


@pytest.mark.parametrize("node", ["Wider,rate:50", "raised,rate:15"])
def test_what_a_subclass_takes_anew_or_a_module_changes_is_left_to_the_call(mine, node):
    compose(["data=digits", "model=cnn", f"{X}{node}}}"])


def test_a_file_of_options_is_named(mine, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text("# @package _global_\nschedule: {final_fraction: 1.5}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: schedule\.final_fraction is 1\.5; it must be a number at least 0"):
        compose(["experiment=x"], config_dir=str(tmp_path))


def test_the_trainers_own_numbers_are_refused_by_the_trainer_too():
    with pytest.raises(ValueError, match="clip_norm is 0; it must be a number above 0, or null"):
        Trainer(model=None, optimizer=None, loss=None, clip_norm=0)
