"""Write a model card of a completed run: what it is, what it reaches, what it was made of, what is not known of it.

python -m src.card outputs/digits/<run>                   # writes <run>/README.md
python -m src.card 1a2b3c4d --output card.md

It is Markdown with the front matter that the Hugging Face hub reads. Where other runs beside it differ by their seed
alone, it has the mean and standard deviation over all of them. Needs no TensorFlow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.common.arguments import Parser
from src.common.command import run_command
from src.common.errors import ConfigError
from src.common.files import replace
from src.common.text import plural, printable
from src.comparison import confounders
from src.comparison.columns import differing
from src.comparison.groups import Group, group
from src.comparison.rows import Row, add_derived, read_row, read_rows
from src.comparison.tables import markdown, show
from src.data import SPLITS
from src.runs.collection import SAVED_MODEL, RecordedRun, find_run
from src.runs.commands import by_python, next_commands, train_command
from src.runs.record_schema import RecordValues, numbers, parse, step_within

# The hub's word for the task, by the option of `data`; a table's depends on its target, that of `tfds` on its metrics.
TASKS = {
    **dict.fromkeys(("digit_scenes", "image_folder", "oxford_iiit_pet"), "image-segmentation"),
    **dict.fromkeys(("digits", "digits_binary", "digits_multilabel", "class_folder"), "image-classification"),
    "texts": "text-classification",
    "characters": "text-generation",
    "windows": "time-series-forecasting",
}

USE = """\
```python
import tensorflow as tf

model = tf.saved_model.load("saved_model/1")  # needs TensorFlow alone, and none of the code that trained it
print(model.signatures["serving_default"].structured_input_signature)
```"""

UNKNOWN = """\
- What the model is meant for, who is affected by its mistakes, and how the data were gathered cannot be read from a
  run: write it here before others use it. The front matter has no `license` for the same reason."""


def main(argv: list[str]) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m src.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, outputs/<name>/<label>-<id>, or its id")
    parser.add_argument("--output", metavar="FILE", type=Path, help="RUN/README.md by default")
    arguments = parser.parse_intermixed_args(argv)
    run = find_run(arguments.run)
    text, output = card(run), arguments.output or run.directory / "README.md"
    if output.exists() and output.read_bytes() != text.encode():
        raise ConfigError(f"{output} has another text, which may be yours; move it away, or give another --output")
    try:
        replace(output, text)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); give another --output") from error
    print(output)


def card(run: RecordedRun) -> str:
    """The model card of a run.

    Raises:
        ConfigError: the run is not completed, or has no result.
    """
    if run.status != "completed" or run.best is None:
        why = f"is {run.status}" if run.status != "completed" else f"has no value of {run.values['monitor']}"
        raise ConfigError(f"{run.directory} {why}; a card is of a completed run: {_train_command(run)}")
    row, seeds = _with_seeds(run)
    values = run.values
    sections = {
        "Results": [_results(row, seeds)],
        "Use": [
            USE if _is_served(run) else "The run left no SavedModel.",
            *_exports(values),
            _code("", map(by_python, next_commands(run.directory)[:2])),
        ],
        "Data": [_table(["", ""], _data(values))],
        "Training": [_code("", [_train_command(run)]), _code("yaml", [_yaml(values.get("config", {})).rstrip()])],
        "Limits": ["\n".join([*(f"- {limit}" for limit in _limits(row, seeds)), UNKNOWN])],
        "Environment": [_table(["", ""], _environment(values))],
        "Fingerprints": [_table(["", ""], _fingerprints(values))],
    }
    parts = [f"---\n{_yaml(_front_matter(row))}---", f"# {markdown(run.directory.name)}", _summary(values)]
    for title, texts in sections.items():
        parts += [f"## {title}", *texts]
    return printable("\n\n".join(parts) + "\n")


def _with_seeds(run: RecordedRun) -> tuple[Row, Group]:
    """The run's row, and the runs beside it that differ from it by their seed alone, with itself."""
    row, _ = read_row(run)
    own = run.directory.resolve()
    others = [other for other in read_rows([own.parent])[0] if other.directory.resolve() != own]
    rows = [row, *others]
    for one in rows:
        one.metrics.update(_tested_afterwards(one.run))
    add_derived(rows)
    return row, next(found for found in group(rows, differing(rows)) if row in found.rows)


def _tested_afterwards(run: RecordedRun) -> dict[str, float]:
    """What `src.evaluate` has measured on the test split, as `test/<name>`, where the run's record has nothing of it.

    Raises:
        ConfigError: that file is not as `src.evaluate` writes it.
    """
    file = run.directory / "evaluation" / "test" / "metrics.json"
    if run.values["test"] or not file.is_file():
        return {}
    try:
        found = parse(file.read_text())
        models = found["metrics"]
        measured = numbers("metrics", models.get("best_weights") or models["saved_model"])
        # Of a run that went on, with other weights; or by other data or code than it was trained by.
        if found["when"] < (run.values["finished"] or "") or found.get("changed"):
            return {}
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read ({error!r}); python -m src.evaluate writes it anew") from error
    return {f"test/{name}": value for name, value in measured.items() if value is not None}


def _front_matter(row: Row) -> dict[str, Any]:
    """What the hub reads; `model-index` needs a task, so it is left out where that is not known."""
    values = row.run.values
    task, data = _task(values), str(values["choices"].get("data", values["name"]))
    split = "test" if "test" in _splits(row) else "val"
    measured = {name: value for name, value in row.metrics.items() if name.startswith(f"{split}/")}
    names = [name.partition("/")[2] for name in measured]
    tags = ["tensorflow", "keras", *["saved_model"] * _is_served(row.run)]
    found = {"library_name": "tensorflow", "tags": tags, "metrics": names}
    if task is None:
        return found
    result = {
        "task": {"type": task},
        "dataset": {"type": data, "name": _dataset(values) or data, "split": split},
        "metrics": [
            {"type": name, "name": full, "value": value}
            for name, (full, value) in zip(names, measured.items(), strict=True)
        ],
    }
    return {**found, "pipeline_tag": task, "model-index": [{"name": row.directory.name, "results": [result]}]}


def _is_served(run: RecordedRun) -> bool:
    return (run.directory / SAVED_MODEL).is_dir()


def _task(values: RecordValues) -> str | None:
    data = values["choices"].get("data")
    if data == "table":
        return "tabular-classification" if values["class_names"] else "tabular-regression"
    if data == "tfds":
        return "image-segmentation" if "val/mean_iou" in values["metrics"] else "image-classification"
    return TASKS.get(data) if isinstance(data, str) else None


def _dataset(values: RecordValues) -> str | None:
    """Its name, or that of its file or folder: others have no use for the folders above it."""
    config = values.get("config", {})
    path = config.get("data.path")
    return config.get("data.dataset") or (Path(path).name if isinstance(path, str) else None)


def _summary(values: RecordValues) -> str:
    best, choices = values["best"], values["choices"]
    assert best is not None
    parameters = "" if values["parameters"] is None else f" of {values['parameters']:,} parameters"
    return (
        f"A `{choices.get('model', '?')}`{parameters}, trained on `{choices.get('data', '?')}`: "
        f"{values['monitor']} {best['value']:.6g}, the best ({values['mode']}) of "
        f"{plural(values['epoch'], 'epoch')}, in epoch {best['epoch'] or '?'}{step_within(best)}."
    )


def _results(row: Row, seeds: Group) -> str:
    """A line for each metric: this run's, and over the seeds where there are others."""
    header, lines = ["metric", "this run"], []
    count = len(seeds.averaged)
    for name, value in row.metrics.items():
        cells = [name, f"{value:.6g}"]
        if count > 1:
            numbers = seeds.numbers(name)
            deviation = f" ± {seeds.deviation(name):.2g}" if len(numbers) > 1 else ""
            cells.append(f"{seeds.mean(name):.6g}{deviation} ({len(numbers)})")
        lines.append(cells)
    note = ""
    if count > 1:
        header.append("mean ± standard deviation (seeds)")
        own = ", ".join(str(one.run.values["seed"]) for one in seeds.averaged)
        note = f"\n\nThe seeds are {own}; the standard deviation is the sample's (n - 1)."
    return _table(header, lines) + note


def _exports(values: RecordValues) -> Iterator[str]:
    """The files of `src.export`."""
    if values["exports"]:
        yield "\n".join(
            f"- `{name}/model.{name}`: what the SavedModel gives for {proof['examples']} examples, to "
            f"{proof['largest_difference'] or 0:.1e}"
            for name, proof in values["exports"].items()
        )


def _data(values: RecordValues) -> Iterator[tuple[str, str]]:
    config = values.get("config", {})
    yield "option", str(values["choices"].get("data", "?"))
    yield from ((key, show(key, value)) for key, value in config.items() if key.startswith("data."))
    if values["class_names"]:
        yield "classes", ", ".join(map(str, values["class_names"]))


def _splits(row: Row) -> list[str]:
    """Those that the run has been measured on."""
    return [split for split in SPLITS if any(name.startswith(f"{split}/") for name in row.metrics)]


def _limits(row: Row, seeds: Group) -> Iterator[str]:
    """What a reader of the numbers should know."""
    values, count, splits = row.run.values, len(seeds.averaged), _splits(row)
    yield (
        f"The weights are those of the epoch with the best {values['monitor']}, which is therefore better than it "
        "would be on other examples" + ("." if "test" in splits else "; the test split has not been measured.")
    )
    if count == 1:
        yield "It is one run: how much its results change with the seed is not known."
    else:
        yield from map(markdown, confounders.warnings(seeds.averaged))
    yield f"It has been measured on splits of its own data alone: {', '.join(splits)}."
    git = values["environment"]["git"]
    if not git:
        yield "The code was in no repository."
    elif git.get("dirty") or git.get("untracked"):
        yield "The code had changes that were not committed; the run's folder `code` has them."
    if values["parent"]:
        yield f"It went on from another run, {values['parent']['config_hash'][:8]}."


def _environment(values: RecordValues) -> Iterator[tuple[str, str]]:
    environment = values["environment"]
    git = environment["git"] or {}
    yield "commit", str(git.get("commit") or "none")
    yield "Python", environment["python"] or "?"
    yield "processor", f"{environment['processor'] or '?'}, {plural(environment['threads'] or 1, 'thread')}"
    yield from ((name, version or "none") for name, version in environment["packages"].items())
    yield from ((name, value or "") for name, value in (environment["variables"] or {}).items())


def _fingerprints(values: RecordValues) -> Iterator[tuple[str, str]]:
    prints = values["fingerprints"]
    yield "config", values["config_hash"]
    for kind, hashes in {"code": prints.get("code"), "files": prints.get("files")}.items():
        if hashes:
            digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
            yield f"{kind} ({len(hashes)}, each in run.json)", digest
    yield from ((f"data {key}", str(value)) for key, value in prints.get("data", {}).items())


def _train_command(run: RecordedRun) -> str:
    return by_python(train_command(run.directory, run.values))


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _code(language: str, lines: Iterable[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    run_command(main)
