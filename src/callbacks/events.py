"""The event files of a run, shared by the callbacks that write them: one writer a folder, and nothing written twice.

    class Norms(EventCallback):
        def on_epoch_end(self, state, metrics):
            norm = float(state.gradient_norms[-1])
            self.files.guard(self.files.write, tf.summary.scalar, "train", state.step, {"norm": norm})

TensorBoard calls each folder with an event file a run: `train`, `val`, and "", which is the directory itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf

from src.callbacks.base import Callback
from src.files import delete
from src.state import TrainState

log = logging.getLogger(__name__)

PATTERN = "events.out.tfevents.*"


class EventFiles:
    """The writers of a directory, and what is in its files already.

    Args:
        directory: of the splits' folders.
        step: where training stands; at 0, files that are there are of a start that saved nothing, and go.

    Attributes:
        written: the last step of each (split, tag).
    """

    _open: ClassVar[dict[Path, EventFiles]] = {}

    def __init__(self, directory: Path, *, step: int) -> None:
        self.directory = directory
        self.written: dict[tuple[str, str], int] = {}
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._broken = False
        self.guard(self._begin, step)

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
        """Call `summary(tag, value)`, as `tf.summary.scalar`, for each value that is new, and flush.

        What a checkpoint counts as done must be in the file before it is listed.
        """
        new = {tag: value for tag, value in values.items() if self.is_new(split, tag, step)}
        with self.writer(split).as_default(step):
            for tag, value in new.items():
                summary(tag, value)
                self.written[split, tag] = step
        for writer in self._writers.values():
            writer.flush()

    def writer(self, split: str) -> tf.summary.SummaryWriter:
        """The split's writer, opened at first use."""
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(str(self.directory / split))
        return self._writers[split]

    def guard(self, write: Callable[..., Any], *args: Any) -> None:
        """Call `write(*args)`; the first time that one fails is a warning, and the end of all: training goes on."""
        if self._broken:
            return
        try:
            write(*args)
        except (OSError, tf.errors.OpError) as error:
            self._broken = True
            log.warning("no more summaries in %s: %s", self.directory, error)

    def _begin(self, step: int) -> None:
        if not step:
            for path in _paths(self.directory):
                delete(path)
        self.written.update(last_steps(self.directory))

    def close(self) -> None:
        """Close the writers; fine where that has been done."""
        self._open.pop(self.directory, None)
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            self.guard(writer.close)


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
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                yield from ((split, event.step, value) for value in event.summary.value)
        except tf.errors.DataLossError:
            pass


def _paths(directory: Path) -> list[Path]:
    return sorted([*directory.glob(PATTERN), *directory.glob(f"*/{PATTERN}")])
