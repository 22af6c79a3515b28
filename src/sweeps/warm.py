"""What every forked child would do first, done once by its parent: importing.

    prepare_fork()

No TensorFlow op runs here: a process that has run one cannot be forked.
"""

from __future__ import annotations

import importlib

from src.logs import importing
from src.runs import provenance

IMPORTED = (
    "src.baseline",
    "src.build",
    "src.callbacks.checkpoint",
    "src.callbacks.early_stopping",
    "src.callbacks.export",
    "src.callbacks.histograms",
    "src.callbacks.hparams",
    "src.callbacks.images",
    "src.callbacks.patience",
    "src.callbacks.profile",
    "src.callbacks.progress",
    "src.callbacks.record",
    "src.callbacks.summaries",
    "src.checkpoints",
    "src.data.sources",
    "src.metrics",
    "src.models.cnn",
    "src.models.unet",
    "src.schedules",
    "src.trainer",
    "tensorboard.summary",
)


def prepare_fork() -> None:
    """Import TensorFlow and what runs need of it, and read the code that computes."""
    with importing():
        for module in IMPORTED:
            importlib.import_module(module)
    provenance.fingerprints({module: {"_target_": f"{module}.any"} for module in IMPORTED if module.startswith("src.")})
