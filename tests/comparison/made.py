"""Records as training leaves them, without the training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.comparison.columns import differing
from src.comparison.groups import Group, group, ranked
from src.comparison.rows import Row, read_rows

RATES = {"adam": 0.003, "sgd": 0.05}


def make_run(
    folder: Path,
    label: str,
    *,
    best: float | None = 0.9,
    optimizer: str = "adam",
    seed: int = 0,
    choices: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    typed: Sequence[str] = (),
    history: Sequence[dict[str, Any]] | None = None,
    **changed: Any,
) -> Path:
    """A completed run, unless `changed` says otherwise.

    Args:
        best: of val/accuracy, reached in epoch 2 of 3.
        choices, config: beside those of the optimizer and the seed.
        typed: overrides beside `optimizer` and `seed`.
        history: lines of history.jsonl; by default val/accuracy rises to `best` and falls again.
    """
    directory = folder / label
    directory.mkdir(parents=True)
    values = {
        "id": hashlib.sha256(label.encode()).hexdigest()[:8],
        "name": "digits",
        "status": "completed",
        "monitor": "val/accuracy",
        "mode": "max",
        "best": None if best is None else {"value": best, "epoch": 2, "step": 80},
        "metrics": {} if best is None else {"val/loss": 0.5, "val/accuracy": best - 0.01},
        "epoch": 3,
        "step": 120,
        "epochs": 3,
        "parameters": 13706,
        "seed": seed,
        "seconds": 2.0 + seed,
        "overrides": [f"optimizer={optimizer}", f"seed={seed}", *typed],
        "choices": {
            "data": "digits",
            "model": "cnn",
            "loss": "cross_entropy",
            "optimizer": optimizer,
            **(choices or {}),
        },
        "config": {
            "epochs": 3,
            "seed": seed,
            "optimizer._target_": f"keras.optimizers.{optimizer}",
            "optimizer.learning_rate": RATES.get(optimizer, 0.001),
            **(config or {}),
        },
        "fingerprints": {"code": {"src/trainer.py": "aa"}, "data": {"dataset": "digits:1.0.0"}},
        "error": None,
        "environment": {
            "git": {"commit": "1234567890abcdef", "dirty": True},
            "packages": {"keras": "3.15.1"},
            "python": "3.11.7",
            "threads": 1,
        },
        **changed,
    }
    if history is None:
        reached = [] if best is None else [(1, best - 0.2, 0.7), (2, best, 0.4), (3, best - 0.01, 0.5)]
        history = [
            {
                "epoch": epoch,
                "step": 40 * epoch,
                "seconds": 1.0,
                "train/loss": loss / 2,
                "val/loss": loss,
                "val/accuracy": a,
            }
            for epoch, a, loss in reached
        ]
    (directory / "run.json").write_text(json.dumps(values))
    (directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    return directory


def rewrite(directory: Path, **changed: Any) -> None:
    """Change keys of a run.json, and remove those that are None."""
    values = json.loads((directory / "run.json").read_text()) | changed
    (directory / "run.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def rows_in(folder: Path) -> list[Row]:
    """The runs there, without a warning."""
    rows, warnings = read_rows([folder])
    assert not warnings
    return rows


def groups_in(folder: Path, *, sort: str | None = None) -> list[Group]:
    """The runs there, grouped and ranked."""
    rows = rows_in(folder)
    return ranked(group(rows, differing(rows)), sort=sort)
