"""What an evaluation finds beside the metrics: of classes, of labels any number of which may be true, or of numbers.

Each kind says what stands in metrics.json (`facts`), how a target or a prediction reads (`named`), and draws (`draw`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.pictures import confusion_picture, examples_sheet, png, scatters_picture
from src.data.batch import INPUTS, Nest, cell, named_parts


@dataclass(frozen=True)
class MeasuredExample:
    """One example, by its place in the split's stored order, and what was predicted of it.

    Attributes:
        inputs: as stored; of images uint8 [H, W, C].
        target: [] or [...].
        predicted: the class, the probability of each label, or numbers.
    """

    index: int
    loss: float
    inputs: Nest
    target: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class ClassResults:
    """Which classes were taken for which.

    Attributes:
        confusion: int64 [classes, classes], true class by predicted class.
        uncounted: targets that are none of the classes, such as a loss's `ignore_label`.
    """

    class_names: Sequence[str]
    confusion: np.ndarray
    uncounted: int

    def rows(self) -> list[dict[str, Any]]:
        """Each class's name, number of targets, recall, precision and intersection over union; None for 0 of 0."""
        right, targets, predictions = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        columns = {"recall": targets, "precision": predictions, "iou": targets + predictions - right}
        return [
            {
                "class": name,
                "targets": int(targets[i]),
                **{key: float(right[i] / of[i]) if of[i] else None for key, of in columns.items()},
            }
            for i, name in enumerate(self.class_names)
        ]

    def facts(self) -> dict[str, Any]:
        return {
            "class_names": list(self.class_names),
            "per_class": self.rows(),
            "confusion": self.confusion.tolist(),
            "uncounted": self.uncounted,
        }

    def draw(self, folder: Path, *, title: str) -> None:
        (folder / "confusion.png").write_bytes(png(confusion_picture(self.confusion, self.class_names, title=title)))

    def named(self, value: np.ndarray) -> str:
        """A target or a prediction of an example."""
        return self.class_names[int(value)] if value.ndim == 0 and 0 <= value < len(self.class_names) else cell(value)


@dataclass(frozen=True)
class LabelResults:
    """How well each label is told from its absence.

    Attributes:
        targets: bool [n, labels].
        logits: float32 [n, labels]; equal ones stay equal, which probabilities need not.
        thresholds: of each label the logit from which on saying yes has the highest F1 on val; None without val.
    """

    label_names: Sequence[str]
    targets: np.ndarray
    logits: np.ndarray
    thresholds: Sequence[float] | None

    def rows(self) -> list[dict[str, Any]]:
        """Each label's name, targets and AUC, and precision, recall and F1 above 0.5 and from its threshold on."""
        found = []
        for i, name in enumerate(self.label_names):
            truth, logits = self.targets[:, i], self.logits[:, i]
            row = {"label": name, "targets": int(truth.sum()), "auc": auc(truth, logits)}
            row |= scores(truth, logits > 0)
            if self.thresholds is not None:
                at = self.thresholds[i]
                of_threshold = scores(truth, logits >= at)
                row |= {
                    "threshold": probability(at),
                    **{f"{key}_at_threshold": value for key, value in of_threshold.items()},
                }
            found.append(row)
        return found

    def facts(self) -> dict[str, Any]:
        return {"label_names": list(self.label_names), "per_label": self.rows()}

    def draw(self, folder: Path, *, title: str) -> None:
        """There is no picture."""

    def named(self, value: np.ndarray) -> str:
        numbers = np.reshape(value, -1)
        return " ".join(f"{name}={number:.3g}" for name, number in zip(self.label_names, numbers, strict=True))


@dataclass(frozen=True)
class NumberResults:
    """Numbers beside those that were predicted.

    Attributes:
        targets, predicted: float [n, ...], of one shape.
    """

    targets: np.ndarray
    predicted: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        return []

    def facts(self) -> dict[str, Any]:
        return {}

    def draw(self, folder: Path, *, title: str) -> None:
        """Truth against prediction, apart for each of a target's numbers."""
        (folder / "scatter.png").write_bytes(png(scatters_picture(self.targets, self.predicted, title=title)))

    def named(self, value: np.ndarray) -> str:
        return cell(value)


Results = ClassResults | LabelResults | NumberResults


def scores(truth: np.ndarray, said: np.ndarray) -> dict[str, float | None]:
    """Precision, recall and F1 of saying yes; None for 0 of 0.

    Args:
        truth, said: bool [n].
    """
    right, targets, predictions = int((truth & said).sum()), int(truth.sum()), int(said.sum())
    of = {"precision": (right, predictions), "recall": (right, targets), "f1": (2 * right, predictions + targets)}
    return {key: part / whole if whole else None for key, (part, whole) in of.items()}


def probability(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def auc(truth: np.ndarray, logits: np.ndarray) -> float | None:
    """The area under the ROC curve: how often a yes is above a no, ties by half; None without one of either.

    Args:
        truth: bool [n].
        logits: float [n].
    """
    yes, no = int(truth.sum()), int((~truth).sum())
    if not (yes and no):
        return None
    _, place, counts = np.unique(logits, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1, the mean one among equals
    return float((ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * no))


def best_threshold(truth: np.ndarray, logits: np.ndarray) -> float:
    """The logit from which on saying yes has the highest F1; 0 where there is no yes.

    It is half way between those of two examples, so that rounding changes nothing.

    Args:
        truth: bool [n].
        logits: float [n].
    """
    if not truth.any():
        return 0.0
    order = np.argsort(-logits, kind="stable")
    right, said, falling = np.cumsum(truth[order]), np.arange(1, len(order) + 1), logits[order]
    is_last = np.append(np.diff(falling) != 0, True)  # of equal ones, which are said together
    best = int(np.where(is_last, 2 * right / (said + truth.sum()), -1).argmax())
    return float(falling[best : best + 2].mean(dtype=np.float64))


def write_worst(examples: Sequence[MeasuredExample], results: Results, folder: Path) -> None:
    """The examples of the highest loss: of images of classes worst.png and worst/, of others worst.csv."""
    if isinstance(results, ClassResults) and _is_picture(examples[0].inputs):
        (folder / "worst.png").write_bytes(png(_sheet(examples, results)))
        (folder / "worst").mkdir()
        for place, example in enumerate(examples, 1):
            path = folder / "worst" / f"{place:02}-index-{example.index:05}.png"
            path.write_bytes(png(_sheet([example], results)))
        return
    with (folder / "worst.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *named_parts(examples[0].inputs, INPUTS), "truth", "prediction", "loss"])
        for example in examples:
            inputs = map(cell, named_parts(example.inputs, INPUTS).values())
            answers = map(results.named, (example.target, example.predicted))
            writer.writerow([example.index, *inputs, *answers, cell(example.loss)])


def _is_picture(inputs: Nest) -> bool:
    return (
        isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and inputs.ndim == 3 and inputs.shape[-1] in (1, 3)
    )


def _sheet(examples: Sequence[MeasuredExample], results: ClassResults) -> np.ndarray:
    images, targets, predicted = (
        np.stack([getattr(example, name) for example in examples]) for name in ("inputs", "target", "predicted")
    )
    targets = np.where((targets >= 0) & (targets < len(results.class_names)), targets, 0)
    captions = [f"#{example.index}  loss {example.loss:.3g}" for example in examples]
    return examples_sheet(images, targets, predicted, class_names=results.class_names, captions=captions)
