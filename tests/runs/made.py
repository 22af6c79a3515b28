"""Runs as training leaves them, without the training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from src.runs.record import Record
from src.training.manifest import write_manifest

BYTES = 5000  # of each checkpoint


def make_run(folder: Path, number: int, *, aside: bool = False, checkpoints: bool = True, **changed: Any) -> Path:
    """A run in `folder`, completed unless `changed` says otherwise; the number decides its id and result."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    directory = folder / f"cnn-s{number}-{digest[:8]}{'.20260102T030405000006' if aside else ''}"
    values = {
        "id": digest[:8],
        "name": folder.name,
        "status": "completed",
        "monitor": "val/accuracy",
        "mode": "max",
        "best": {"value": 0.9 + number / 100, "epoch": 2, "step": 80},
        "metrics": {"train/loss": 0.2, "val/loss": 0.3, "val/accuracy": 0.9 + number / 100},
        "epoch": 3,
        "step": 120,
        "epochs": 3,
        "parameters": 13706,
        "seed": number,
        "started": f"2026-01-{number + 1:02}T10:00:00+00:00",
        "finished": f"2026-01-{number + 1:02}T10:02:00+00:00",
        "seconds": 90.0,
        "overrides": ["data=digits", "model=cnn", f"seed={number}"],
        "config_hash": digest,
        "parent": None,
        "error": None,
        "environment": {"git": {"commit": "1234567890abcdef", "dirty": True}, "packages": {"keras": "3.15.1"}},
        **changed,
    }
    Record(directory).update(**values)
    for epoch in range(1, values["epoch"] + 1):
        Record(directory).append_epoch(
            {"epoch": epoch, "step": 40 * epoch, "seconds": 30.0, "val/accuracy": epoch / 10}
        )
    for file in (".hydra/config.yaml", "train.log", "summaries/val/events.out", "saved_model/1/saved_model.pb"):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(file)
    if checkpoints:
        for part in ("checkpoints", "checkpoints/best"):
            add_checkpoint(directory / part)
    return directory


def add_checkpoint(folder: Path, number: int = 1) -> Path:
    """A checkpoint that counts; its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / f"ckpt-{number}"
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(b"\1" * BYTES)
    write_manifest(prefix, step=120, epoch=3, variables={})
    return prefix


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
