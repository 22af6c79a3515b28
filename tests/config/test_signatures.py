"""What a dotted name takes is read from source as Python would say it, and nothing is imported for it."""

import ast
import importlib
import inspect
import subprocess
import sys

import keras
import pytest

from src.config import signatures
from tests.support.helpers import ROOT

MODULES = (keras.optimizers, keras.optimizers.schedules, keras.losses, keras.metrics)
CLASSES = [
    f"{module.__name__}.{name}" for module in MODULES for name, found in vars(module).items() if inspect.isclass(found)
]

MINE = """
import functools
from mine.base import Base, Base as Other
from keras import losses
import keras.losses as named

def function(a, /, b, *rest, c=1): pass
def open_ended(a, **options): pass
@functools.cache
def wrapped(a): pass
value = functools.partial(function, b=1)
class Plain: pass
class Own:
    def __init__(self, a, *, b=2): pass
class Inherits(Own): pass
class HandsOn(Base):
    def __init__(self, own, **options): super().__init__(**options)
class Keeps(Base):
    def __init__(self, own, **options): self.options = options
class HandsToKeras(losses.Loss):
    def __init__(self, own, **options): super().__init__(**options)
class NamedOtherwise(named.Loss): pass
class OfUnknown(nowhere.Base): pass
class Diamond(HandsOn, Other): pass
@functools.total_ordering
class Decorated:
    a: int
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "__init__": "raise ImportError",
        "models": MINE,
        "base": "class Base:\n    def __init__(self, base=1): pass\n",
        "reexports": "from .models import HandsOn as Public\nfrom .reexports import lost\n",
    }.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("name", "taken"),
    {
        "models.function": ["b", "c"],
        "models.open_ended": None,
        "models.wrapped": None,
        "models.value": None,
        "models.Plain": [],
        "models.Own": ["a", "b"],
        "models.Inherits": ["a", "b"],
        "models.HandsOn": ["own", "base"],
        "models.Keeps": None,
        "models.HandsToKeras": ["own", "name", "reduction", "dtype"],
        "models.NamedOtherwise": ["name", "reduction", "dtype"],
        "models.OfUnknown": None,
        "models.Diamond": ["own", "base"],
        "models.Decorated": None,
        "models.absent": None,
        "reexports.Public": ["own", "base"],
        "reexports.lost": None,
        "nowhere.x": None,
    }.items(),
)
def test_names_are_read_through_imports_and_bases(mine, name, taken):
    assert signatures.names(f"mine.{name}") == taken


def test_arguments_are_those_of_the_function_or_of_the_class_that_has_them(mine):
    found = {name: signatures.arguments(f"mine.models.{name}") for name in ("Inherits", "open_ended", "value", "Plain")}
    assert {name: part and ast.unparse(part) for name, part in found.items()} == {
        "Inherits": "self, a, *, b=2",
        "open_ended": "a, **options",
        "value": None,
        "Plain": None,
    }


def test_a_file_that_changes_is_read_anew(mine, tmp_path):
    assert signatures.names("mine.base.Base") == ["base"]
    (tmp_path / "mine" / "base.py").write_text("class Base:\n    def __init__(self, another): pass\n")
    assert signatures.names("mine.base.Base") == ["another"]


@pytest.mark.parametrize(
    "name", [*CLASSES, "src.optimizers.Ftrl", "src.metrics.ClassScores", "src.losses.CrossEntropy"]
)
def test_of_keras_and_of_the_project_it_is_what_importing_says(name):
    module, _, last = name.rpartition(".")
    found = signatures.names(name)
    assert found is not None
    assert sorted(found) == sorted(inspected(getattr(importlib.import_module(module), last)))


def inspected(target):
    """The arguments that an imported class or function takes by name, with those of bases behind **kwargs."""
    classes = inspect.getmro(target) if inspect.isclass(target) else ()
    names = {}
    for function in [vars(c).get("__init__", object.__init__) for c in classes] or [target]:
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name != "self"]


def test_nothing_is_imported():
    code = (
        "import sys; from src.config import signatures; signatures.names('keras.optimizers.Adam'); "
        "print('keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
