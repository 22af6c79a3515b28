"""Logging to the run's train.log and to standard error, above a progress bar where there is one."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO
from unicodedata import category

from src.common.machine import settle_keras_backend


def escaped(name: object) -> str:
    r"""A file's name, or a message with one, as one line: `a\nb` has a backslash, and nothing moves the cursor."""
    unsafe = ("Cc", "Cs", "Zl", "Zp")  # control characters, stray bytes, ends of lines and paragraphs
    return "".join(c.encode("unicode_escape").decode() if category(c) in unsafe else c for c in str(name))


class ConsoleHandler(logging.StreamHandler):
    """Writes to whatever sys.stderr is at that moment, so that a progress bar can take lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


@contextmanager
def importing() -> Iterator[None]:
    """Import TensorFlow in here: what its native code writes to standard error is shown only if the block raises.

    TensorFlow announces its build and the lack of a GPU in eight lines at each import, whatever the log level; later
    only its warnings come through, unless TF_CPP_MIN_LOG_LEVEL says otherwise. Looking for garbage among so many new
    objects, none of which is any, would take a sixth of the time.

    Raises:
        ValueError: Keras is to compute with something else.
    """
    settle_keras_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.stderr.flush()
    kept, collecting = os.dup(2), gc.isenabled()
    gc.disable()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if collecting:
                gc.enable()
