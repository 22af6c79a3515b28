"""Errors as they are told: the message, and for one that the user's own code raised its kind, file and line.

    try:
        ...
    except Exception as error:
        print(f"error: {described(error)}", file=sys.stderr)

Functions are traced as Keras's `fit` traces them: AutoGraph rewrites those alone that are decorated with @tf.function.
An `if`, `for` or `while` of Python's that asks a tensor for its value is therefore an error, with a message of its own.
"""

from __future__ import annotations

import linecache
import os
import re
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.common.files import is_own

# What no message of the project's own is.
UNEXPECTED = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
_SYMBOLIC = re.compile(r"symbolic `?(tf\.)?Tensor|SymbolicTensor")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOST_PROBLEMS = 8  # lines of a message
LONGEST_LINE = 500  # characters of a message on one line
# What TensorFlow and Keras say of a variable that is made when it should be there already.
_MADE_LATE = re.compile(
    r"variables on a non-first call|only supports singleton tf\.Variables|cannot add new elements of state|"
    r"'self\.\w+' (is None at the end of|must also be initialized)"
)
MADE_LATE = (
    "what a layer keeps is made in its __init__ or build, a variable by self.add_weight(...), and not while it is "
    "called, nor in one branch of a function"
)
_USER_CODE = re.compile(r'^ *File "([^"]+)", line (\d+), in (\S+)', re.MULTILINE)
_GENERATED = "__autograph_generated_file"  # what AutoGraph makes of a function
_PROJECT = str(Path(__file__).resolve().parents[1]) + os.sep


class ConfigError(ValueError):
    """The command or the config is wrong; the message names the key, the value and the way out."""

    @classmethod
    def of(cls, problems: Sequence[str]) -> ConfigError:
        """One error for several problems, a line each; of many, the first ones and how many are left."""
        left = len(problems) - MOST_PROBLEMS
        return cls("\n".join([*problems[:MOST_PROBLEMS], *([f"and {left} more"] if left > 0 else [])]))


class Shortage(RuntimeError):
    """This machine has not what the run needs; the message says what to change."""


def described(error: BaseException) -> str:
    """What to print of an error: its message; of one from the user's own code also what raised it, and where."""
    message = plain_message(error)
    if late := made_late(error):
        message = f"{late}: {message}"
    line = place(error)
    if not line:
        return message
    return f"{type(error).__name__}: {message}\n  {line}\n  HYDRA_FULL_ERROR=1 before the command shows the whole trace"


def place(error: BaseException) -> str | None:
    """The user's line that raised it; None for what the project says itself, and in words of its own."""
    return None if isinstance(error, ConfigError) else users_line(error)


def one_line(text: str) -> str:
    """A message on one line, without Keras's colours; a very long one ends after a word, with `...`."""
    words = " ".join(_COLOURS.sub("", text).split())
    return textwrap.shorten(words, LONGEST_LINE, placeholder=" ...", break_on_hyphens=False, break_long_words=False)


def plain_message(error: BaseException) -> str:
    """What it says, without the colours that Keras gives it."""
    return _COLOURS.sub("", str(error) or repr(error))


def users_line(error: BaseException) -> str | None:
    """`mine.py:7, in build: x = y[0]`, the last line of the traceback that no installed package has.

    None for what the project itself says, which raises none of UNEXPECTED.
    """
    frames = list(_frames(error))
    is_meant = not isinstance(error, UNEXPECTED) or type(error).__module__ != "builtins"
    if not frames or (is_meant and frames[-1][0].startswith(_PROJECT)):
        return None
    told = [found for found in _USER_CODE.findall(str(error)) if is_own(found[0])] if _has_generated(error) else []
    return "{0}, in {2}: {1}".format(*_shown(*(told or frames)[-1]))


def made_late(error: BaseException) -> str | None:
    """The way out, where a variable is made while a layer is called; None for another error."""
    return MADE_LATE if _MADE_LATE.search(str(error)) else None


def control_flow_on_tensor(error: BaseException) -> str | None:
    """Which line asked a tensor for its value, and the way out, where this was the reason; None for another error."""
    frames = list(_frames(error))  # the last may lie in src/models, where users put models of their own
    if not _SYMBOLIC.search(str(error)) or not frames:
        return None
    where, source, name = _shown(*frames[-1])
    function = "the function" if name.startswith("<") else name
    return (
        f"{where}, `{source}`: a tensor has no value yet while the graph is made; decorate {function} with "
        "@tf.function, or use tf.where, tf.cond or tf.while_loop"
    )


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """File, line and function of each frame of a traceback, but of installed packages' and Python's own."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if is_own(code.co_filename) and _GENERATED not in code.co_filename:
            yield code.co_filename, line, code.co_name


def _has_generated(error: BaseException) -> bool:
    """Whether it was raised in a function that AutoGraph has rewritten: the message has its own lines then."""
    return any(_GENERATED in frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))


def _shown(file: str, line: int | str, function: str) -> tuple[str, str, str]:
    return f"{os.path.relpath(file)}:{line}", linecache.getline(file, int(line)).strip(), function
