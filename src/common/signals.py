"""Signals end training after the step it is in: the first asks, the second ends the process at once.

    with stop_on_signals(trainer.interrupt) as received:
        trainer.fit(...)

Python runs its handlers only when a graph call returns, so a thread reads the signals from the wake-up descriptor.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PRUNE_SIGNAL = signal.SIGUSR2  # ends a run as the others do, and says that it is not worth going on
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, PRUNE_SIGNAL)


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGNALS, and SIGHUP, which a closed terminal sends, unless nohup has it ignored."""
    return SIGNALS if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*SIGNALS, signal.SIGHUP)


@contextmanager
def stop_on_signals(interrupt: Callable[[str], None], *, second_ends: bool = True) -> Iterator[list[int]]:
    """Call `interrupt(reason)` at the first of `ending_signals`; yields the list of those received.

    Args:
        second_ends: whether a second signal ends the process at once, or changes nothing.

    Outside of the main thread, where Python allows no handlers, it does nothing.
    """
    received: list[int] = []
    numbers = ending_signals()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := int.from_bytes(os.read(reader, 1) or b"\0"):
            if number not in numbers:
                continue
            if received and second_ends:
                os._exit(128 + number)
            if received:
                continue
            received.append(number)
            interrupt(signal.Signals(number).name)

    handlers = {number: signal.signal(number, lambda number, frame: None) for number in numbers}
    old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True, name="signals")
    thread.start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(old_descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


@contextmanager
def interrupts_noted() -> Iterator[list[KeyboardInterrupt]]:
    """Yields the list of the interrupts that signals have raised in here, those among them that were swallowed.

    Keras and TensorFlow have bare `except` clauses, which pass over an interrupt, or raise another error instead.
    Outside of the main thread, where Python allows no handlers, none is noted.
    """
    noted: list[KeyboardInterrupt] = []

    def noting(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except KeyboardInterrupt as interrupt:
                noted.append(interrupt)
                raise

        return handle

    is_main = threading.current_thread() is threading.main_thread()
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if is_main}
    handlers = {number: (handler, noting(handler)) for number, handler in known.items() if callable(handler)}
    for number, (_, ours) in handlers.items():
        signal.signal(number, ours)
    try:
        yield noted
    finally:
        for number, (theirs, ours) in handlers.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, theirs)


@contextmanager
def time_limit(seconds: float | None, interrupt: Callable[[str], None]) -> Iterator[None]:
    """Ask for an interruption, with its reason, after so many seconds; None does not."""
    timer = threading.Timer(seconds or 0, interrupt, ["max_seconds"])
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
