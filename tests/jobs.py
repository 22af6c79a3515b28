"""Jobs of every kind that people bring, each as one command, for tests/test_jobs.py and `python -m benchmarks jobs`.

docs/tasks.md has the same commands. Where a job needs code of its own, it is that of docs/own-code.md.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.support.folders import write_classes, write_pairs, write_records
from tests.support.forks import ROOT

OWN_CODE, TASKS = ROOT / "docs" / "own-code.md", ROOT / "docs" / "tasks.md"


class Job(NamedTuple):
    """A command.

    Attributes:
        command: its overrides; `{first}` is the run of `first`.
        rows: the suffix of a file that examples are predicted from.
        first: overrides of a command that is typed before.
        own: whether it needs the files of docs/own-code.md.
        sweep: overrides of --multirun, for a sweep of the job.
    """

    command: str
    rows: str
    first: str = ""
    own: bool = False
    sweep: str = ""

    def words(self, first: Path | None = None) -> list[str]:
        """The overrides."""
        return shlex.split(self.command.replace("{first}", str(first)))


PHOTOS = (
    "data=class_folder data.path=photos data.image_size=32 name=photos model=backbone model.network=MobileNet "
    "batch_size=8"
)

JOBS = {
    "Numbers from a table": Job("data=table", ".csv"),
    "Classes from a table": Job(
        "data=table data.target=sex name=sex loss=sparse_categorical_crossentropy metric=accuracy "
        "monitor=val/accuracy mode=max",
        ".csv",
    ),
    "Texts": Job("data=texts", ".txt"),
    "Texts, by a convolution": Job("data=texts model.kind=cnn", ".jsonl"),
    "Tokens of any length": Job("data=words", ".jsonl", own=True),
    "A language model": Job("data=characters data.length=32 model.blocks=1 model.units=16", ".npz"),
    "A language model of padded sequences": Job("data=padded_sequences", ".npz", own=True),
    "Forecasts": Job("data=windows", ".npz"),
    "Several labels at once": Job("data=digits_multilabel", ".npz"),
    "Yes or no, by one logit": Job("data=digits_binary", ".npz"),
    "Masks by one logit": Job(
        "data=image_folder data.path=shapes name=shapes model.filters=4 model.depth=2 model.num_classes=1 "
        "loss=binary_crossentropy metric=segmentation_full",
        ".npz",
    ),
    "Several inputs and several heads": Job("data=two_digits", ".npz", own=True),
    "An autoencoder": Job("experiment=vae", ".npz", own=True),
    "Two networks against each other": Job("experiment=gan", ".npz", own=True),
    "Distillation": Job(
        "data=digits model=mlp 'model.hidden_units=[16]' name=small learner=distillation learner.teacher={first}",
        ".npz",
        first="data=digits model=cnn",
    ),
    "Images from images": Job("data=sharpen", ".npz", own=True),
    "Transfer in two phases": Job(
        f"{PHOTOS} init_from={{first}} optimizer.learning_rate=0.001", ".npz", first=f"{PHOTOS} model.frozen=true"
    ),
    "Rates for groups of layers": Job("data=digits model=mlp learner=slow_body", ".npz", own=True),
    "A subclassed model": Job("data=digits model=residual", ".npz", own=True),
    "Two views of each image": Job("data=views", ".npz", own=True),
    "Low-rank changes of a trained network": Job(
        "data=digits model=lora name=lora init_from={first}",
        ".npz",
        first="data=digits model=mlp data.limit=0.1",
        own=True,
    ),
    "Files of TFRecords": Job("data=records", ".npz", own=True),
    "A pipeline that is there already": Job("data=pipeline", ".csv", own=True),
    "Folds and seeds": Job("data=folds", ".npz", own=True, sweep="data.fold=0,1,2 seed=0,1"),
}


def write_files(folder: Path, job: Job) -> list[str]:
    """What a job needs beside the project, below the folder that its commands are typed in; returns their words for it.

    The package `mine` of docs/own-code.md, its options in `conf`, the images in `photos` and `shapes`, and
    the files in `records`.
    """
    if "data.path=photos" in job.command:
        # As many steps as the averages of batch normalisation need.
        write_classes(folder / "photos", {"cats": 600, "dogs": 600}, size=32)
    if "data.path=shapes" in job.command:
        write_pairs(folder / "shapes", count=60, classes=2)
    if "data=records" in job.command:
        write_records(folder / "records")
    if not job.own:
        return []
    for name, text in own_code().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return ["--config-dir=conf"]


def own_code() -> dict[str, str]:
    """The files of docs/own-code.md, by their paths."""
    text = OWN_CODE.read_text(encoding="utf-8")
    return dict(re.findall(r"`((?:mine|conf)/[\w./]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))


def own_targets() -> str:
    """The lines for conf/targets.txt of docs/own-code.md."""
    return re.search(r"```text\n(.*?)```", OWN_CODE.read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]
