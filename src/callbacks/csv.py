"""Writes the metrics of all epochs as a table that any program reads.

    MetricsCsv(record="run", enabled=True)

metrics.csv has a row for each line of history.jsonl, of which it is made anew each time that a checkpoint is about to
count one: so a run that is continued neither doubles nor loses an epoch, and earlier epochs are there, too.
"""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

from src.common.files import fsync, replace
from src.training.callback import Callback


class MetricsCsv(Callback):
    """Write metrics.csv.

    Args:
        record: the run's directory.
        enabled: whether anything is written.
    """

    def __init__(self, *, record: str, enabled: bool = False) -> None:
        self._history, self._path, self._enabled = Path(record, "history.jsonl"), Path(record, "metrics.csv"), enabled

    def make_durable(self) -> None:
        if not self._enabled or not self._history.exists():
            return
        epochs = []
        for line in self._history.read_text().splitlines():
            with suppress(ValueError):  # half written: training goes on meanwhile
                epochs.append(json.loads(line))
        text = io.StringIO()
        table = csv.DictWriter(text, dict.fromkeys(key for epoch in epochs for key in epoch))
        table.writeheader()
        table.writerows(epochs)
        replace(self._path, text.getvalue())
        fsync(self._path)
