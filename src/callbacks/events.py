"""The event files of a run, shared by the callbacks that write them: one writer a folder, and nothing written twice.

    class Norms(EventCallback):
        def on_epoch_end(self, state, metrics):
            norm = float(state.gradient_norms[-1])
            self.files.write(tf.summary.scalar, "train", state.step, {"norm": norm})

TensorBoard calls each folder with an event file a run: `train`, `val`, and of older runs "", the directory itself.

Events are written in a thread of their own, in the order in which they were given. `write` waits for it; what is given
to `write_later` is written while training goes on: it must not change afterwards (a variable's value, not the
variable), and where it cannot be written, training ends with a later event, or before a checkpoint counts it.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf
from google.protobuf.message import DecodeError

from src.common.files import delete, fsync, fsync_folders
from src.training.callback import Callback
from src.training.state import TrainState

PATTERN = "events.out.tfevents.*"
MOST_WAITING = 100  # writes that training may be ahead of the thread, so that memory is bounded
HEADER_BYTES, FOOTER_BYTES = 12, 4  # of a record: its length in 8 bytes, and checksums of the length and the record


class EventFiles:
    """The writers of a directory, and what is in its files already.

    Args:
        directory: of the splits' folders.
        step: where training stands; events of later steps are done again and go, and at 0 the files themselves, which
            are of a start that saved nothing.

    Attributes:
        written: the last step of each (split, tag), or given to be written.

    Raises:
        SummaryError: from any method, what has been given cannot be written; the message says the ways out. Training
            ends, and goes on later from its last checkpoint, with nothing missing.
    """

    _open: ClassVar[dict[Path, EventFiles]] = {}

    def __init__(self, directory: Path, *, step: int) -> None:
        self.directory = directory
        self.written: dict[tuple[str, str], int] = {}
        self._files: dict[str, _EventFile] = {}  # of the thread alone
        self._thread, self._room = ThreadPoolExecutor(1, "events"), threading.Semaphore(MOST_WAITING)
        self._error: Exception | None = None
        with self._ways_out():
            self._begin(step)

    @classmethod
    def shared(cls, directory: Path, *, step: int) -> EventFiles:
        """Those that are open in this process, so that callbacks write to the same files; else new ones."""
        if directory not in cls._open:
            cls._open[directory] = cls(directory, step=step)
        return cls._open[directory]

    def is_new(self, split: str, tag: str, step: int) -> bool:
        """Whether nothing is written yet of this step or a later one."""
        return step > self.written.get((split, tag), -1)

    def write(self, summary: Callable[[str, Any], Any], split: str, step: int, values: Mapping[str, Any]) -> None:
        """Call `summary(tag, value)`, as `tf.summary.scalar`, for each value that is new; what it raises comes out."""
        events, write_each = self._each_new(summary, split, step, values)
        with self._ways_out():
            self._raise_error()
            self._thread.submit(self._write, split, events, write_each).result()
        self._count(split, events)

    def write_later(self, summary: Callable[[str, Any], Any], split: str, step: int, values: Mapping[str, Any]) -> None:
        """As `write`, without waiting."""
        self.submit(split, *self._each_new(summary, split, step, values))

    def submit(self, split: str, events: Sequence[tuple[str, int]], write: Callable[[], Any]) -> None:
        """Have `write()` called later, which writes these events (tag, step) to the default summary writer.

        The default step is that of the last one.
        """
        self._count(split, events)
        with self._ways_out():
            self._raise_error()
            self._room.acquire()
            self._thread.submit(self._write_or_keep_error, split, events, write)

    def make_durable(self) -> None:
        """Put all events on the disk; TensorFlow's writers drop one that they cannot write, so they are read again."""
        with self._ways_out():
            for file in self._thread.submit(self._verify).result():  # while training gives more to write
                file.fsync()

    def close(self) -> None:
        """Close the writers; fine where that has been done. What counts has been made durable before."""
        self._open.pop(self.directory, None)
        self._thread.shutdown()
        files, self._files = self._files, {}
        for file in files.values():
            with suppress(OSError, tf.errors.OpError):
                file.writer.close()

    @contextmanager
    def _ways_out(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            # Without TensorFlow's names of ops.
            reason = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", str(error).partition("\n")[0])
            begun = self._files and not self.directory.is_dir()
            cause = (
                "That folder was removed while training wrote there; " if begun else "Make room or mend the disk, then "
            )
            left = " where one is left, and else starts anew" if begun else ""
            raise SummaryError(
                f"no summaries could be written in {self.directory} ({reason}). {cause}type the same command: it "
                f"goes on from the last checkpoint{left}"
            ) from error

    def _begin(self, step: int) -> None:
        for path in _paths(self.directory):
            if step:
                _cut(path, step)
            else:
                delete(path)
        self.written.update(last_steps(self.directory))

    def _each_new(
        self, summary: Callable[[str, Any], Any], split: str, step: int, values: Mapping[str, Any]
    ) -> tuple[list[tuple[str, int]], Callable[[], None]]:
        new = {tag: value for tag, value in values.items() if self.is_new(split, tag, step)}

        def write_each() -> None:
            for tag, value in new.items():
                summary(tag, value)

        return [(tag, step) for tag in new], write_each

    def _count(self, split: str, events: Sequence[tuple[str, int]]) -> None:
        for tag, step in events:
            self.written[split, tag] = max(step, self.written.get((split, tag), step))

    def _raise_error(self) -> None:
        if self._error:
            raise self._error

    # In the thread

    def _write(self, split: str, events: Sequence[tuple[str, int]], write: Callable[[], Any]) -> None:
        if not events:
            return
        if split not in self._files:
            self._files[split] = _EventFile(self.directory / split)
        file = self._files[split]
        with file.writer.as_default(events[-1][1]):
            write()
        file.writer.flush()
        file.unseen += events

    def _write_or_keep_error(self, *arguments: Any) -> None:
        try:
            if not self._error:  # nothing comes after what is missing
                self._write(*arguments)
        except Exception as error:
            self._error = error
        finally:
            self._room.release()

    def _verify(self) -> list[_EventFile]:
        """Those with anything new."""
        self._raise_error()
        return [file for file in self._files.values() if file.verify()]


class SummaryError(OSError):
    """Summaries cannot be written."""


class _EventFile:
    """One new event file.

    Args:
        folder: made where it is missing.

    Attributes:
        unseen: tag and step of the events that have been written and not been read again.
    """

    def __init__(self, folder: Path) -> None:
        before = set(folder.glob(PATTERN))
        self.writer = tf.summary.create_file_writer(str(folder))
        self.unseen: list[tuple[str, int]] = []
        [self._path] = set(folder.glob(PATTERN)) - before
        self._seen_bytes = 0
        self._named = False  # whether its name is on the disk

    def verify(self) -> bool:
        """Read what has been written since the last time; whether there is anything."""
        self.writer.flush()
        if self._seen_bytes == self._path.stat().st_size and not self.unseen:
            return False
        found, end = _read_on(self._path, self._seen_bytes)
        lost = Counter(self.unseen) - Counter(found)
        if lost or end is None:
            first = next(iter(lost), None)
            what = f"{first[0]} of step {first[1]}" if first else "what has been written"
            raise OSError(f"{self._path} lacks {what}")
        self._seen_bytes, self.unseen = end, []
        return True

    def fsync(self) -> None:
        fsync(self._path)
        if not self._named:
            fsync_folders(self._path.parent)
            self._named = True


class EventCallback(Callback):
    """A callback that writes event files.

    Args:
        directory: of the splits' folders.

    Attributes:
        files: from the beginning of training to its end.
    """

    files: EventFiles

    def __init__(self, *, directory: str) -> None:
        self._directory = Path(directory)

    def on_train_begin(self, state: TrainState) -> None:
        self.files = EventFiles.shared(self._directory, step=state.step)

    def make_durable(self) -> None:
        self.files.make_durable()

    def close(self) -> None:
        if hasattr(self, "files"):
            self.files.close()


def last_steps(directory: Path) -> dict[tuple[str, str], int]:
    """The last step written of each (split, tag)."""
    steps: dict[tuple[str, str], int] = {}
    for split, step, value in read_values(directory):
        steps[split, value.tag] = max(step, steps.get((split, value.tag), step))
    return steps


def read_values(directory: Path) -> Iterator[tuple[str, int, Any]]:
    """(split, step, summary value) in the order of the files; a torn end of one is left out."""
    for path in _paths(directory):
        split = "" if path.parent == directory else path.parent.name
        for event, _ in _events(path):
            yield from ((split, event.step, value) for value in event.summary.value)


def _events(path: Path) -> Iterator[tuple[Any, int]]:
    """The events of a file with the positions of their ends, up to the first that is not whole."""
    end = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            end += HEADER_BYTES + len(record) + FOOTER_BYTES
            yield tf.compat.v1.Event.FromString(record), end
    except tf.errors.DataLossError:
        pass


def _cut(path: Path, step: int) -> None:
    """Cut off a file's end from the first event of a later step, or the first that is not whole."""
    end = 0
    for event, event_end in _events(path):
        if event.step > step:
            break
        end = event_end
    if end < path.stat().st_size:
        os.truncate(path, end)


def _read_on(path: Path, start: int) -> tuple[list[tuple[str, int]], int | None]:
    """Tag and step of a file's events from a position on, and where they end; None if that is not the file's end."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    found: list[tuple[str, int]] = []
    position = 0
    while position < len(content):
        if len(content) < position + HEADER_BYTES:
            return found, None
        (length,) = struct.unpack_from("<Q", content, position)
        first, position = position + HEADER_BYTES, position + HEADER_BYTES + length + FOOTER_BYTES
        try:
            event = tf.compat.v1.Event.FromString(content[first : first + length])
        except DecodeError:
            return found, None
        tags = [value.tag for value in event.summary.value] or [event.WhichOneof("what")]
        found += [(tag, event.step) for tag in tags]
    return found, start + position if position == len(content) else None


def _paths(directory: Path) -> list[Path]:
    return sorted([*directory.glob(PATTERN), *directory.glob(f"*/{PATTERN}")])
