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
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

# What no message of the project's own is.
UNEXPECTED = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
_SYMBOLIC = re.compile(r"symbolic `?(tf\.)?Tensor|SymbolicTensor")
_PROJECT = str(Path(__file__).resolve().parent) + os.sep
_STANDARD = os.path.realpath(sysconfig.get_path("stdlib")) + os.sep
_INSTALLED = {"site-packages", "dist-packages"}


class ConfigError(ValueError):
    """The command or the config is wrong; the message names the key, the value and the way out."""


def described(error: BaseException) -> str:
    """What to print of an error: its message; of one from the user's own code also what raised it, and where."""
    message = str(error) or repr(error)
    line = None if isinstance(error, ConfigError) else users_line(error)
    if not line and (not isinstance(error, UNEXPECTED) or type(error).__module__ != "builtins"):
        return message
    where = f"\n  {line}" if line else ""
    return f"{type(error).__name__}: {message}{where}\n  HYDRA_FULL_ERROR=1 before the command shows the whole trace"


def users_line(error: BaseException) -> str | None:
    """`mine.py:7, in build: x = y[0]`, the last line of the user's in the traceback; None if the project's is later."""
    frames = list(_frames(error))
    if not frames or frames[-1][0].co_filename.startswith(_PROJECT):
        return None
    return "{0}, in {2}: {1}".format(*_shown(*frames[-1]))


def control_flow_on_tensor(error: BaseException) -> str | None:
    """Which line asked a tensor for its value, and the way out, where this was the reason; None for another error."""
    users = [frame for frame in _frames(error) if not frame[0].co_filename.startswith(_PROJECT)]
    if not _SYMBOLIC.search(str(error)) or not users:
        return None
    where, source, name = _shown(*users[-1])
    function = "the function" if name.startswith("<") else name
    return (
        f"{where}, `{source}`: a tensor has no value yet while the graph is made; decorate {function} with "
        "@tf.function, or use tf.where, tf.cond or tf.while_loop"
    )


def _frames(error: BaseException) -> Iterator[tuple[CodeType, int]]:
    """The code and the line of each frame of a traceback, but of installed packages' and Python's own."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        installed = _INSTALLED.intersection(Path(path).parts) or os.path.realpath(path).startswith(_STANDARD)
        if not installed and not path.startswith("<"):
            yield frame.f_code, line


def _shown(code: CodeType, line: int) -> tuple[str, str, str]:
    path = os.path.relpath(code.co_filename)
    return f"{path}:{line}", linecache.getline(code.co_filename, line).strip(), code.co_name
