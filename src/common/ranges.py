"""What an argument may be, written once, in the signature that takes it.

    @enforce_ranges
    def decay(*, learning_rate: Positive, final_fraction: Annotated[float, Range(0, 1)] = 0.0): ...

    decay(learning_rate=-1)     # ValueError: learning_rate is -1; it must be a number above 0

Of a config, `src.config.signatures` reads the same annotations before anything is imported. What they may be made of:
Range in the Annotated of int or float, Literal, None, unions, sequences and pairs of these, and names for any of them.
A text in an Annotated takes the place of the words that these make. Whatever else an annotation says is not judged.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from math import inf, isfinite
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from src.common.spelling import did_you_mean

Target = TypeVar("Target", bound=Callable[..., Any])
Result = TypeVar("Result")

UNIONS = (Union, types.UnionType)


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`.

    Attributes:
        above: without `low` itself.
        below: without `high` itself.
    """

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Whether it is a number in the range; booleans are no numbers."""
        return (
            is_number(value)
            and (self.low < value if self.above else self.low <= value)
            and (value < self.high if self.below else value <= self.high)
        )

    def __str__(self) -> str:
        ends = []
        if self.low > -inf:
            ends.append(f"{'above' if self.above else 'at least'} {self.low:.12g}")
        if self.high < inf:
            ends.append(f"{'below' if self.below else 'at most'} {self.high:.12g}")
        return " and ".join(ends)

    @property
    def schema(self) -> dict[str, float]:
        """The same in the words of JSON Schema."""
        ends = {
            "exclusiveMinimum" if self.above else "minimum": self.low,
            "exclusiveMaximum" if self.below else "maximum": self.high,
        }
        return {word: end for word, end in ends.items() if isfinite(end)}


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and (isinstance(value, Integral) or isfinite(value))


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Flag: TypeAlias = Literal[True, False]
Share = Annotated[float, Range(0, 1, below=True)]  # a part of a whole that leaves some of it, such as a dropout rate


class Check(NamedTuple):
    """What a value must be.

    Attributes:
        allows: whether a value is that.
        allowed: the same in words, to follow "it must be".
        known: the words that it may be, if it may be some.
        schema: the same as a JSON schema, for editors.
    """

    allows: Callable[[Any], bool]
    allowed: str
    known: tuple[str, ...] = ()
    schema: Mapping[str, Any] = types.MappingProxyType({})

    def refusal(self, key: str, value: Any) -> str:
        """What to say of a value that is not allowed."""
        return f"{key} is {shown(value)}; it must be {self.allowed}{did_you_mean(str(value), self.known)}"


def check_of(hint: Any) -> Check | None:
    """What a value of this type must be; None where the type says nothing that is judged.

    Raises:
        TypeError: a Range of something else than numbers.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(*arguments)
    if origin is Literal:
        words = tuple(word if isinstance(word, str) else shown(word) for word in arguments)
        return Check(
            lambda x: any(type(x) is type(word) and x == word for word in arguments),
            f"one of {', '.join(words)}",
            words,
            {"enum": list(arguments)},
        )
    if origin in UNIONS:
        return _any_of(arguments)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        items = [check for argument in arguments if argument is not ... and (check := check_of(argument))]
        fixed = origin is tuple and ... not in arguments
        return _sequence(items, fixed=fixed) if len(items) == len(arguments) - (... in arguments) > 0 else None
    return None


def _annotated(base: Any, *notes: Any) -> Check | None:
    intervals = [note for note in notes if isinstance(note, Range)]
    members = get_args(base) if get_origin(base) in UNIONS else (base,)
    if not intervals:
        check = check_of(base)
    elif set(members) - {int, float, type(None)}:
        raise TypeError(f"a Range is of int and float, not of {base}")
    else:
        whole = float not in members
        check = Check(
            lambda x: all(interval.allows(x) for interval in intervals) and (isinstance(x, Integral) or not whole),
            f"{'an integer' if whole else 'a number'} {' and '.join(map(str, intervals))}".rstrip(),
            schema={"type": "integer" if whole else "number"} | {k: v for i in intervals for k, v in i.schema.items()},
        )
        check = _or_null(check) if type(None) in members else check
    words = [note for note in notes if isinstance(note, str)]
    return check._replace(allowed=words[-1]) if check and words else check


def _or_null(check: Check) -> Check:
    return Check(
        lambda x: x is None or check.allows(x),
        f"{check.allowed}, or null",
        check.known,
        schema_of_any([check.schema, {"type": "null"}]),
    )


def _any_of(members: Sequence[Any]) -> Check | None:
    checks = [check_of(member) for member in members if member is not type(None)]
    judged = [check for check in checks if check]
    if not judged or len(judged) < len(checks):
        return None
    check = Check(
        lambda x: any(check.allows(x) for check in judged),
        ", or ".join(check.allowed for check in judged),
        tuple(word for check in judged for word in check.known),
        schema_of_any([check.schema for check in judged]),
    )
    return _or_null(check) if type(None) in members else check


def schema_of_any(schemas: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The schema of what any of these takes."""
    flat = [part for schema in schemas for part in (schema["anyOf"] if [*schema] == ["anyOf"] else [schema])]
    return {"anyOf": flat} if len(flat) > 1 else flat[0]


def _sequence(items: list[Check], *, fixed: bool) -> Check:
    """Of as many items as there are checks, or of any number that all pass the one."""
    texts = list(dict.fromkeys(item.allowed for item in items))
    count = f" of {len(items)}" if fixed else ""

    def allows(values: Any) -> bool:
        if not isinstance(values, Sequence) or isinstance(values, str) or (fixed and len(values) != len(items)):
            return False
        wanted = items if fixed else items * len(values)
        return all(item.allows(value) for item, value in zip(wanted, values, strict=True))

    allowed = f"a list{count}, each {texts[0]}" if len(texts) == 1 else f"a list of {', '.join(texts)}"
    schemas = [item.schema for item in items]
    length = {"minItems": len(items), "maxItems": len(items)} if fixed else {}
    return Check(allows, allowed, schema={"type": "array", "items": schemas if fixed else schemas[0], **length})


def checks_of(function: Callable[..., Any]) -> dict[str, Check]:
    """The checks of a function's arguments, or a class's fields, by name."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # of one imported for type checkers alone; the others hold
        hints = {}
        for name, annotation in inspect.get_annotations(function).items():
            one = types.SimpleNamespace(__annotations__={name: annotation})
            with suppress(NameError):
                hints |= get_type_hints(one, getattr(function, "__globals__", None), include_extras=True)
    hints.pop("return", None)
    return checks_in(hints)


def checks_in(hints: Mapping[str, Any]) -> dict[str, Check]:
    """Those of these types that are judged, by the same names."""
    return {name: check for name, hint in hints.items() if (check := check_of(hint))}


def enforce_ranges(target: Target) -> Target:
    """Decorate a function, or a class for its `__init__`: each call first checks the arguments that it is given.

    It raises ValueError naming the argument, its value and what is allowed. Signature and name stay as they are.
    """
    if isinstance(target, type):
        # What a dataclass inherits is annotated in its base's module, which its own `__init__` does not know.
        target.__init__ = _enforced(target.__init__, target if is_dataclass(target) else None)  # type: ignore[misc]
        return target
    return _enforced(target)


def takes(options: type) -> Callable[[Callable[[Any], Result]], Callable[..., Result]]:
    """Decorate a function of one object of options: it is called with the object's fields, as keyword arguments."""

    def decorated(function: Callable[[Any], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def called(**arguments: Any) -> Result:
            return function(options(**arguments))

        called.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
        called.__annotations__ = get_type_hints(options, include_extras=True)
        return called

    return decorated


def _enforced(target: Target, annotated: Any = None) -> Target:
    signature = inspect.signature(target)
    named = [name for name, parameter in signature.parameters.items() if parameter.kind < parameter.VAR_POSITIONAL]
    # At the first call, when all that annotations name is there.
    checks = functools.cache(lambda: checks_of(annotated or target))

    @functools.wraps(target)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in (*zip(named, args, strict=False), *kwargs.items()):
            if (check := checks().get(name)) and not check.allows(value):
                raise ValueError(check.refusal(name, value))
        return target(*args, **kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]  # Keras does not look through wrappers
    return cast(Target, checked)


def shown(value: Any) -> str:
    """A value as a config has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
