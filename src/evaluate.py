"""Measure a run's best weights, and its SavedModel, on a split, and see what the SavedModel gets wrong.

python -m src.evaluate outputs/digits/cnn-adam-lr0.003-cosine-e20-b32-s0-1a2b3c4d split=test

Standard output has loss and metrics, and each class's IoU, recall and precision, or each label's AUC, precision, recall
and F1. RUN/evaluation/<split>/, which is replaced as a whole, has more:

    metrics.json     the same in full precision, and the confusion matrix of classes; of labels, of which any number may
                     be true, the probability from which on saying yes has the highest F1 on val, which nothing uses;
                     and the ten examples of the highest loss by their index in the split
    confusion.png    the matrix: a row for each true class
    scatter.png      of numbers: truth against prediction
    worst.png        the ten examples, of images of classes; each has a picture of its own in worst/
    worst.csv        the ten examples of other data: inputs, truth, prediction and loss
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from src.common.command import EXIT_FAILED, EXIT_WRONG, run_command
from src.common.errors import ConfigError
from src.common.files import literal
from src.common.logs import importing
from src.common.machine import available_cores
from src.common.text import print_table
from src.config.identity import identity_config
from src.data import SPLITS
from src.runs.collection import SAVED_MODEL, find_run
from src.runs.commands import train_command
from src.runs.environment import environment, environment_changes
from src.runs.provenance import changes
from src.runs.record import Record
from src.runs.record_schema import EMPTY
from src.runs.recorded_config import load_config
from src.training.manifest import listed

if TYPE_CHECKING:  # imports TensorFlow
    from src.inspection.evaluation import Evaluation

TITLES = {"best_weights": "best weights", "saved_model": "SavedModel"}
TOLERANCE = 1e-6
SHOWN_CLASSES = 30  # a longer table is read in metrics.json
USAGE = f"""usage: python -m src.evaluate RUN [split={"|".join(SPLITS)}]

  RUN  a run's directory, outputs/<name>/<label>-<id>, or its id
  The split is test where the data has one, else val, else train.

Prints loss and metrics; the confusion matrix and the worst examples go to RUN/evaluation/<split>"""


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code: 0, or 1 where the two disagree or nothing can be written."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else EXIT_WRONG
    word, split = _parse(arguments)
    run = find_run(word).directory
    cfg = load_config(run)
    record = Record(run).read() or EMPTY
    if changed := changes(record["fingerprints"], identity_config(cfg)):
        print(f"note: changed since this run: {', '.join(changed)}", file=sys.stderr)
    if others := environment_changes(record["environment"], environment()):
        print(f"note: it was computed in another environment: {', '.join(others)}", file=sys.stderr)
    evaluation = evaluate(cfg, run, split)
    _print_metrics(evaluation)
    _print_results(evaluation)
    sys.stdout.flush()
    written = _write(evaluation, run, changed=list(changed))
    ours, exported = (evaluation.metrics.get(name, {}) for name in TITLES)
    disagree = disagreements(ours, exported)
    if disagree:
        print(f"error: best weights and SavedModel disagree in {', '.join(disagree)}", file=sys.stderr)
    return EXIT_FAILED if disagree or not written else 0


def evaluate(cfg: DictConfig, run: Path, split: str | None) -> Evaluation:
    """What is measured with the best weights and with the SavedModel.

    Args:
        split: None takes the first that the data has of test, val and train.

    Raises:
        ConfigError: the data has no such split.
        FileNotFoundError: the run has neither a best checkpoint nor a SavedModel yet.
    """
    with importing():
        from src import build
        from src.inspection import evaluation
        from src.training.checkpoints import Checkpoints
        from src.training.manifest import BEST

        record = Record(run).read() or EMPTY
        build.set_up_process(threads=record["environment"]["threads"] or available_cores())
    import tensorflow as tf

    saved_model, best = run / SAVED_MODEL, run / "checkpoints" / BEST
    if not saved_model.is_dir() and not listed(best):
        raise FileNotFoundError(
            f"{run} has neither a best checkpoint nor a SavedModel yet; type its command again: "
            f"{train_command(run, record)}"
        )
    data = build.build_data(cfg)
    there = [name for name in SPLITS if getattr(data, name) is not None]
    split = split or there[-1]
    if split not in there:
        raise ConfigError(f"split={split}: the data has none; give one of {', '.join(there)}, or leave it out")
    cfg = cast(DictConfig, OmegaConf.merge(cfg, {"callback": None}))
    trainer = build.build_trainer(cfg, data, run_dir=run, restores=True)
    has_best_weights = Checkpoints(best).restore_weights(trainer.state) is not None
    if not has_best_weights:
        print(f"note: the checkpoints in {best} have been removed; the SavedModel alone is measured", file=sys.stderr)
    serve = weights = None
    if saved_model.is_dir():
        with literal(saved_model) as name:
            loaded = tf.saved_model.load(name)
        serve = loaded.signatures["serving_default"]
        weights = getattr(loaded, "weights", None)
    else:
        print(f"note: {saved_model} is not there yet; the best weights alone are measured", file=sys.stderr)
    found = evaluation.measure(
        trainer, data, split=split, serve=serve, has_best_weights=has_best_weights, exported_weights=weights
    )
    if serve is not None and "saved_model" not in found.metrics:
        print(
            f"note: {saved_model} takes other inputs than this data's; best weights alone are measured", file=sys.stderr
        )
    return found


def disagreements(ours: Mapping[str, float], exported: Mapping[str, float]) -> list[str]:
    """The metrics in both that differ by more than TOLERANCE, or are undefined (NaN) in one alone."""
    return [
        name
        for name in ours
        if name in exported
        and not abs(ours[name] - exported[name]) <= TOLERANCE
        and not (math.isnan(ours[name]) and math.isnan(exported[name]))
    ]


def _parse(arguments: list[str]) -> tuple[str, str | None]:
    options = [a for a in arguments if a.startswith("split=")]
    paths = [a for a in arguments if a not in options]
    split = options[-1].partition("=")[2] if options else None
    if len(paths) != 1:
        raise ConfigError(f"{' '.join(arguments)!r}: one run is wanted, and split=val or nothing beside it\n{USAGE}")
    if split not in (None, *SPLITS):
        raise ConfigError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    return paths[0], split


def _print_metrics(evaluation: Evaluation) -> None:
    columns = [(title, evaluation.metrics[key]) for key, title in TITLES.items() if key in evaluation.metrics]
    titles = [title for title, _ in columns]
    rows = [(name, *(f"{values[name]:.6f}" for _, values in columns)) for name in columns[0][1]]
    print_table([(evaluation.split, *titles), *rows], sys.stdout, right=titles)


def _print_results(evaluation: Evaluation) -> None:
    from src.inspection.results import ClassResults, LabelResults

    results = evaluation.results
    if isinstance(results, ClassResults):
        keys = ("iou", "recall", "precision") if evaluation.worst[0].target.ndim else ("recall", "precision")
        _print_rows(results.rows(), "class", keys)
        if results.uncounted:
            print(f"note: {results.uncounted} targets are none of the classes, and not counted", file=sys.stderr)
    elif isinstance(results, LabelResults):
        told = () if results.thresholds is None else ("threshold", "f1_at_threshold")
        _print_rows(results.rows(), "label", ("auc", "precision", "recall", "f1", *told))
    elif results is None:
        print(
            "note: the model's outputs are no scores or numbers of one target; only the metrics are measured",
            file=sys.stderr,
        )


def _write(evaluation: Evaluation, run: Path, *, changed: Sequence[str]) -> bool:
    """Write the whole of it and say where; whether that went well."""
    from src.inspection.evaluation import write

    folder = run / "evaluation" / evaluation.split
    try:
        write(evaluation, folder, run=str(run), changed=changed)
        for path in sorted(folder.iterdir()):
            print(f"{path}{'/' if path.is_dir() else ''}", file=sys.stderr)
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        print(f"error: {folder} cannot be written ({reason}); give the run's folder room and rights", file=sys.stderr)
        return False
    return True


def _print_rows(rows: list[dict[str, Any]], name: str, keys: Sequence[str]) -> None:
    rows, left_out = rows[:SHOWN_CLASSES], len(rows) - SHOWN_CLASSES
    table = [(row[name], *("-" if row[key] is None else f"{row[key]:.6f}" for key in keys)) for row in rows]
    print()
    print_table([(name, *keys), *table], sys.stdout, right=keys)
    if left_out > 0:
        print(f"... and {left_out} more in metrics.json")


if __name__ == "__main__":
    run_command(main)
