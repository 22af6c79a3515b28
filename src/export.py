"""Write a completed run's model in other formats beside its SavedModel, and prove that they compute the same.

python -m src.export outputs/digits/<run> --to onnx,tflite

    onnx      onnx/model.onnx, for ONNX Runtime:     pip install -c constraints.txt -e '.[onnx]'
    tflite    tflite/model.tflite, for LiteRT:       pip install -c constraints.txt -e '.[tflite]'
    keras     keras/model.keras, for keras.saving.load_model and init_from=FILE; it takes prepared inputs

Each is run in a fresh process on the first 64 examples of the val split, one alone and the others in batches, and is
kept only if each number is the SavedModel's to 1e-5, as a share of what is above 1, and each class is the same. What
cannot be converted is refused, with the operations that the format lacks; the exit code is then 1. run.json has what
was found under `exports`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import cast

from omegaconf import DictConfig, OmegaConf

from src.common.arguments import Parser
from src.common.command import EXIT_FAILED, run_command
from src.common.errors import ConfigError
from src.common.extras import install_command
from src.common.lock import hold
from src.common.logs import importing
from src.common.machine import available_cores
from src.runs.collection import SAVED_MODEL, RecordedRun, find_run, lock_path
from src.runs.commands import train_command
from src.runs.record import Record
from src.runs.recorded_config import load_config

# The packages of each format by the names that they are imported by; each extra has its format's name.
FORMATS = {
    "onnx": {"tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"},
    "tflite": {"ai_edge_litert": "ai-edge-litert"},
    "keras": {},
}


def main(argv: list[str]) -> int:
    """The command line; returns the exit code: 1 where a format is refused."""
    parser = Parser(
        prog="python -m src.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, outputs/<name>/<label>-<id>, or its id")
    parser.add_argument("--to", metavar="FORMAT,...", required=True, help=f"one or more of {','.join(FORMATS)}")
    arguments = parser.parse_intermixed_args(argv)
    formats = list(dict.fromkeys(arguments.to.split(",")))
    _check(formats)
    run = find_run(arguments.run)
    if run.status != "completed":
        command = train_command(run.directory, run.values)
        raise ConfigError(f"{run.directory} is {run.status}; only a completed run is exported: {command}")
    if not (run.directory / SAVED_MODEL).is_dir():
        raise ConfigError(f"{run.directory / SAVED_MODEL} is not there; train the run with callback.export")
    with hold(lock_path(run.directory), what=str(run.directory)):
        refused = export(run, formats)
    return EXIT_FAILED if refused else 0


def export(run: RecordedRun, formats: Sequence[str]) -> list[str]:
    """Write the formats, record and print each; returns those that are refused, which standard error says why."""
    with importing():
        from src import build
        from src.inspection.conversion import Converter, Refused

        build.set_up_process(threads=run.values["environment"]["threads"] or available_cores())
    directory, cfg = run.directory, load_config(run.directory)
    data = build.build_data(cfg)
    converter = Converter(directory / SAVED_MODEL, data)
    record, refused = Record(directory), []
    for name in formats:
        model = None
        if name == "keras":
            cfg = cast(DictConfig, OmegaConf.merge(cfg, {"callback": None}))
            model = build.build_trainer(cfg, data, run_dir=directory, restores=True).model
            for variable, weights in zip(model.variables, converter.weights, strict=True):
                variable.assign(weights)
        try:
            proof = converter.write(name, directory / name, model=model)
        except Refused as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            refused.append(name)
            continue
        versions = {package: metadata.version(package) for package in FORMATS[name].values()}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        exports = (record.read() or run.values)["exports"]
        record.update(exports={**exports, name: {**asdict(proof), "packages": versions, "when": when}})
        print(f"{directory / name / f'model.{name}'}  {proof}", flush=True)
    return refused


def _check(formats: Sequence[str]) -> None:
    """Refuse what is no format, and what needs a package that is not there."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--to {name!r}: it must be one or more of {', '.join(FORMATS)}, with commas between")
        missing = [package for module, package in FORMATS[name].items() if not importlib.util.find_spec(module)]
        if missing:
            raise ConfigError(f"--to {name} needs {' and '.join(missing)}: {install_command(name)}")


if __name__ == "__main__":
    run_command(main)
