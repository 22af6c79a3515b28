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
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

from src.files import is_own

# What no message of the project's own is.
UNEXPECTED = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
_SYMBOLIC = re.compile(r"symbolic `?(tf\.)?Tensor|SymbolicTensor")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PROJECT = str(Path(__file__).resolve().parent) + os.sep


class ConfigError(ValueError):
    """The command or the config is wrong; the message names the key, the value and the way out."""


def described(error: BaseException) -> str:
    """What to print of an error: its message; of one from the user's own code also what raised it, and where."""
    message = plain_message(error)
    line = None if isinstance(error, ConfigError) else users_line(error)
    if not line:
        return message
    return f"{type(error).__name__}: {message}\n  {line}\n  HYDRA_FULL_ERROR=1 before the command shows the whole trace"


def plain_message(error: BaseException) -> str:
    """What it says, without the colours that Keras gives it."""
    return _COLOURS.sub("", str(error) or repr(error))


def users_line(error: BaseException) -> str | None:
    """`mine.py:7, in build: x = y[0]`, the last line of the traceback that no installed package has.

    None for what the project itself says, which raises none of UNEXPECTED.
    """
    frames = list(_frames(error))
    is_meant = not isinstance(error, UNEXPECTED) or type(error).__module__ != "builtins"
    if not frames or (is_meant and frames[-1][0].co_filename.startswith(_PROJECT)):
        return None
    return "{0}, in {2}: {1}".format(*_shown(*frames[-1]))


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


def _frames(error: BaseException) -> Iterator[tuple[CodeType, int]]:
    """The code and the line of each frame of a traceback, but of installed packages' and Python's own."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_own(frame.f_code.co_filename):
            yield frame.f_code, line


def _shown(code: CodeType, line: int) -> tuple[str, str, str]:
    path = os.path.relpath(code.co_filename)
    return f"{path}:{line}", linecache.getline(code.co_filename, line).strip(), code.co_name
