"""A callback that fails in each way a process can, for sweeps that must outlive it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

from src.training.callback import Callback


class Fault(Callback):
    """Fail after the first epoch.

    Args:
        kind: `none`, `raise`, `exit0`, `exit1`, `_exit9`, `kill`, `segfault`, `hang`, `nan_weights`;
            `once` raises unless `marker` is there, which it makes; `interrupted` and `swallowed` get SIGINT while it
            is made, and pass over it, as Keras does; the first then raises another error.
        marker: a file.
    """

    def __init__(self, *, kind: str, marker: str = "", seed: int = 0) -> None:
        self._kind, self._marker = kind, marker
        if kind in ("interrupted", "swallowed"):
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
        if kind == "interrupted":
            raise TypeError("Failed to convert elements to Tensor")

    def on_epoch_end(self, state, metrics):
        if state.epoch != 1:
            return
        if self._kind == "raise":
            raise LookupError("broken on purpose")
        if self._kind == "exit0":
            sys.exit(0)
        if self._kind == "exit1":
            sys.exit(1)
        if self._kind == "_exit9":
            os._exit(9)
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kind == "segfault":
            ctypes.string_at(0)
        if self._kind == "hang":
            time.sleep(3600)
        if self._kind == "nan_weights":
            for weights in state.model.trainable_variables:
                weights.assign(weights * float("nan"))
        if self._kind == "once" and not os.path.exists(self._marker):
            open(self._marker, "w").close()
            raise LookupError("broken once")
