"""Writes what TensorBoard's HParams table shows of a run: its settings, and what it reached.

    Hparams(directory="run/summaries", record="run")

The settings are all that run.json says of the run, so that the table is complete however the runs differ. The metrics
are `best/epoch` and `best/<monitor>`, as `best_epoch/<metric>` the others of the best step, and the last values of the
split that the monitored metric is of. One is NaN where an earlier best had it and this one, a validation within an
epoch, has not. With `evaluate_test=true`, `test/<metric>` too.
TensorBoard shows five of each unasked: of the settings those that differ, of the metrics the first by name, which the
best belong to. The run that it has for all this is that split's, so that its selector has two for each of ours; runs
that began with one of their own, the directory itself, keep it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api, api_pb2, metadata, summary

from src.callbacks.events import EventCallback, EventFiles
from src.common.text import printable
from src.training.state import TrainState

log = logging.getLogger(__name__)

OTHERS = "best_epoch/"


class Hparams(EventCallback):
    """Write settings when a run begins, the best epoch's metrics as they come, and success when it ends.

    Args:
        directory: of the splits' folders.
        record: the run's directory, whose run.json has `id`, `choices` and `config`.
    """

    def __init__(self, *, directory: str, record: str) -> None:
        super().__init__(directory=directory)
        self._record = Path(record, "run.json")

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        self._split = _split(self.files, state)
        record = json.loads(self._record.read_text()) if self._record.exists() else {}
        if "config" not in record:
            log.debug("no hyperparameters for TensorBoard: %s does not say the config", self._record)
            return
        settings = flat_settings(record.get("choices", {}), record["config"])
        self._write_once(metadata.SESSION_START_INFO_TAG, api.hparams_pb(settings, trial_id=record["id"]))

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.on_epoch_end(state, metrics)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.improved and state.best:
            others = {f"{OTHERS}{name}": value for name, value in metrics.items() if name != state.monitor}
            best = {"best/epoch": float(state.best.epoch), f"best/{state.monitor}": metrics[state.monitor], **others}
            earlier = [tag for split, tag in self.files.written if split == self._split and tag.startswith(OTHERS)]
            values = dict.fromkeys(earlier, math.nan) | best
            self.files.write_later(tf.summary.scalar, self._split, state.step, values)

    def on_train_end(self, state: TrainState) -> None:
        self._write_once(metadata.SESSION_END_INFO_TAG, summary.session_end_pb(api_pb2.STATUS_SUCCESS))

    def add(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Write what was measured after training, at the best step."""
        step = state.best.step if state.best else state.step
        with closing(EventFiles(self._directory, step=state.step)) as files:
            files.write(tf.summary.scalar, _split(files, state), step, metrics)
            files.make_durable()

    def _write_once(self, tag: str, message: Any) -> None:
        def write(tag: str, message: Any) -> None:
            tf.summary.experimental.write_raw_pb(message.SerializeToString())

        self.files.write_later(write, self._split, 0, {tag: message})


def _split(files: EventFiles, state: TrainState) -> str:
    """That of the monitored metric; "" where a run has begun so."""
    return "" if any(not split for split, _ in files.written) else state.monitor.partition("/")[0]


def flat_settings(choices: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """What run.json says of a run's options and settings, by key: numbers, booleans and text.

    Args:
        choices: the option of each group.
        config: settings by dotted key; `model._target_` and the like say no more than the choices.
    """
    settings = {key: value for key, value in config.items() if not key.rpartition(".")[2].startswith("_")}
    return {
        key: value if isinstance(value, bool | int | float) else printable(value)
        for key, value in {**choices, **settings}.items()
        if value is not None
    }
