"""A callback that a run can do without: what it raises is a warning, and training goes on.

warn_of_failures(callback)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from src.common.errors import described
from src.training.callback import Callback

log = logging.getLogger(__name__)


def warn_of_failures(callback: Callback) -> None:
    """Let this object's methods warn where they would raise; they are called again the next time.

    `make_durable` still raises: a checkpoint may not count what is not there, as an event that was to be written later.
    """
    for name in [name for name in vars(Callback) if name.startswith("on_")] + ["close"]:
        setattr(callback, name, _warning(getattr(callback, name)))


def _warning(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except Exception as error:
            callback = getattr(method, "__self__", None)
            log.warning(
                "callback %s failed in %s: %s", getattr(callback, "name", ""), method.__name__, described(error)
            )
            return None

    return called
