"""What every forked child would do first, done once by its parent: importing.

    preload()

No TensorFlow op runs here: a process that has run one cannot be forked.
"""

from __future__ import annotations

import functools
import gc
import importlib

from src.common.logs import importing
from src.runs import provenance

IMPORTED = (
    "src.runs.baseline",
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
    "src.runs.record_callback",
    "src.callbacks.summaries",
    "src.data.sources",
    "src.metrics",
    "src.models.cnn",
    "src.models.unet",
    "src.schedules",
    "src.training.checkpoints",
    "src.training.trainer",
    "tensorboard.summary",
)


def preload() -> None:
    """Import TensorFlow and what runs need of it, once, and make sure that this process can be forked.

    Raises:
        ImportError: naming what cannot be imported.
        RuntimeError: an op has run in this process.
    """
    _import_once()
    if has_run_ops():
        raise RuntimeError(
            "TensorFlow has run an op in the process that jobs are forked from, which none would survive: "
            "let hydra.callbacks of the sweep run none, or give hydra.launcher.start=spawn"
        )


@functools.cache
def _import_once() -> None:
    with importing():
        for module in IMPORTED:
            importlib.import_module(module)
    provenance.fingerprints({module: {"_target_": f"{module}.any"} for module in IMPORTED if module.startswith("src.")})
    gc.freeze()  # a collection in a child would copy the pages of all that is here


def has_run_ops() -> bool:
    """Whether TensorFlow has started its runtime here: then it refuses another number of threads."""
    import tensorflow as tf

    try:
        for threads in (1, 0):  # 0, the default, again; asking which it is would start CUDA
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        return True
    return False
