"""What every forked child would do first, done once by its parent: importing, and rewriting functions for graphs.

    prepare_fork()

No TensorFlow op runs here: a process that has run one cannot be forked. AutoGraph rewrites a Python function into one
that builds a graph and keeps the result by the function's code; that takes 20 ms each, a quarter of a short run.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

from src.logs import importing
from src.runs import provenance

IMPORTED = (
    "hydra._internal.logging_config",
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
# Functions that a run turns into graphs: those that it hands to TensorFlow, and those that these call.
HANDED_OVER = (
    ("src.callbacks.export", "_class_names_function.class_names"),
    ("src.callbacks.export", "serving_function.serve"),
    ("src.callbacks.summaries", "_write_points"),
    ("src.data.image_data", "_prepare"),
    ("src.state", "TrainState.__init__.infer"),
    ("src.trainer", "Trainer._compute_results"),
    ("src.trainer", "Trainer._make_loop.run"),
    ("src.trainer", "Trainer.check.compare"),
)
CALLED = (
    ("src.data.image_data", "_prepare"),
    ("src.data.pipeline", "InMemory.next"),
    ("src.data.pipeline", "to_float"),
    ("src.trainer", "Trainer._apply"),
    ("src.trainer", "Trainer._differentiate"),
    ("src.trainer", "Trainer._measure_batch"),
    ("src.trainer", "Trainer._total_loss"),
    ("src.trainer", "Trainer._update"),
    ("src.trainer", "Trainer._update_metrics"),
    ("src.trainer", "Trainer._weight"),
    ("src.trainer", "Trainer.eval_step"),
    ("src.trainer", "Trainer.train_step"),
    ("src.trainer", "Trainer._measured.measure"),
)


def prepare_fork() -> None:
    """Import TensorFlow and what runs need of it, rewrite the functions above, and read the code that computes."""
    with importing():
        for module in IMPORTED:
            importlib.import_module(module)
        for module, name in HANDED_OVER:
            _rewrite(_function(module, name), handed_over=True)
        for module, name in CALLED:
            _rewrite(_function(module, name), handed_over=False)
    provenance.fingerprints({module: {"_target_": f"{module}.any"} for module in IMPORTED if module.startswith("src.")})


def _rewrite(function: Any, *, handed_over: bool) -> None:
    """Fill AutoGraph's cache, as tf.function does for what it is given and for what that calls."""
    from tensorflow.python.autograph.core.converter import ConversionOptions, ProgramContext
    from tensorflow.python.autograph.impl import api

    options = ConversionOptions(
        recursive=True, user_requested=handed_over, internal_convert_user_code=True, optional_features=None
    )
    api._TRANSPILER.transform(function, ProgramContext(options))


def _function(module: str, name: str) -> Any:
    """A function by its module and path; one defined within another as it is before that has run."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None) or _inner(found, part)
    return found


def _inner(outer: types.FunctionType, name: str) -> types.FunctionType:
    codes = [code for code in outer.__code__.co_consts if isinstance(code, types.CodeType) and code.co_name == name]
    assert len(codes) == 1, f"{outer.__qualname__} defines {name} {len(codes)} times"
    cells = tuple(types.CellType() for _ in codes[0].co_freevars)
    return types.FunctionType(codes[0], outer.__globals__, name, None, cells)
