"""Predict the classes of image files with a run's SavedModel.

python -m src.predict outputs/digit_scenes/<run> photo.jpg scans 'more/**/*.png' --output predictions

In the output folder, by default RUN/predictions:

    masks/<image>.png       class numbers as pixels, in the image's own size; a palette gives each class its colour
    overlays/<image>.png    the image with these colours over it
    predictions.json        one entry an image: paths, size and the classes' shares, or a label's probabilities

<image> is the file's name with its suffix, below the folders that are not common to all that was named: no two images
share a name, and a file that this command has not made is never overwritten. An image that cannot be read is named and
passed over, and the exit code is then 1.

Of files with an example in each row, .csv, .jsonl, .npz, .parquet or, for a model of texts, .txt with a text on each
line, the output folder has predictions.jsonl: a line for each row, with what the model gives by name. Of a series, as
.csv, .npy or .parquet, it has one line: what follows its last rows.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.common.arguments import Parser
from src.common.columns import column_names
from src.common.command import run_command
from src.common.logs import escaped, importing
from src.common.machine import available_cores
from src.common.text import plural
from src.data.images.files import FEW_BITS, BadImage
from src.data.images.find import MASKS, OVERLAYS, find_images
from src.data.threads import progress_bar
from src.inspection.predict_images import ImageReader, Writer, check_output, load_model, predictions
from src.runs.collection import SAVED_MODEL, find_run
from src.runs.record_schema import RecordValues

ROWS = (".csv", ".jsonl", ".npy", ".npz", ".parquet", ".txt")  # files that have an example in each row
MISSING = "data.missing."  # before the column that a value of the config stands in for
SHOWN_ROWS = 10


def main(argv: list[str]) -> int:
    """The command line; returns the exit code: 1 where an image cannot be read."""
    parser = Parser(
        prog="python -m src.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, outputs/<name>/<label>-<id>, or its id")
    parser.add_argument(
        "images",
        metavar="FILE",
        nargs="+",
        help="images, folders, quoted patterns with * or **; or files of rows",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="where results go; RUN/predictions by default")
    arguments = parser.parse_intermixed_args(argv)
    try:
        found = find_run(arguments.run)
        run, record = found.directory, found.values
        output = arguments.output or run / "predictions"
        if all(Path(name).suffix in ROWS for name in arguments.images):
            return _predict_rows(run, record, [Path(name) for name in arguments.images], output)
        files, base = find_images(arguments.images, leave_out=[output / MASKS, output / OVERLAYS])
        check_output(output, files, base)
    except ValueError as error:
        parser.error(escaped(error))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{escaped(output)} cannot be made ({error.strerror}); give another folder as --output")
    return predict(run, record, files, base=base, output=output)


def _predict_rows(run: Path, record: RecordValues, files: Sequence[Path], output: Path) -> int:
    with importing():
        import tensorflow as tf

        tf.config.list_physical_devices()  # CUDA says that there is no GPU
        from src.data.batch import INPUTS, plain_name
        from src.inspection.predict_rows import predict_rows
    config = record["config"]
    fillings = {plain_name(key.removeprefix(MISSING)): config[key] for key in config if key.startswith(MISSING)}
    aliases = {config["data.text"]: INPUTS} if "data.text" in config else {}
    exported, names = _exported(run, record), record["class_names"]
    columns = config.get("data.columns") or column_names(Path(str(config.get("data.path"))).expanduser())
    told: dict[str, Any] = {"aliases": aliases, "fillings": fillings, "columns": columns}
    path = predict_rows(exported, files, output=output, class_names=names, **told)
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines[:SHOWN_ROWS]:
        print(line)
    print(escaped(path))
    print(plural(len(lines), "row"), file=sys.stderr)
    return 0


def _exported(run: Path, record: RecordValues) -> Path:
    """The run's SavedModel.

    Raises:
        FileNotFoundError: there is none.
    """
    if not (run / SAVED_MODEL).is_dir():
        command = shlex.join(["python", "-m", "src.train", *record["overrides"]])
        way_out = (
            "train the run with callback.export" if record["status"] == "completed" else f"complete the run: {command}"
        )
        raise FileNotFoundError(f"{run / SAVED_MODEL} is not there; {way_out}")
    return run / SAVED_MODEL


def predict(run: Path, record: RecordValues, files: Sequence[Path], *, base: Path, output: Path) -> int:
    """Predict files into a folder and say how it went; returns the exit code.

    Args:
        record: the run's.
        base: the folder that names in the output are relative to.

    Raises:
        FileNotFoundError: the run has no SavedModel.
    """
    model = load_model(_exported(run, record))
    names = record["class_names"]
    read = ImageReader(model.channels, {**record.get("derived", {}), **record.get("config", {})})
    names = names if len(names) == model.classes else [str(i) for i in range(model.classes)]
    write = Writer(output, base, names, read.fit)
    write.begin(files)
    began = time.perf_counter()
    done, skipped = [], []
    pool = ThreadPoolExecutor(available_cores())
    try:
        with progress_bar("predicting", len(files)) as shown:
            for file, result in shown(predictions(model, files, read, write, pool)):
                if isinstance(result, BadImage):
                    print(f"skipped: {escaped(file)}: {escaped(result)}", file=sys.stderr)
                    skipped.append({"file": str(file), "reason": str(result)})
                else:
                    done.append(result)
    except BaseException:
        write.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a signal waits for nothing that still runs
    seconds = time.perf_counter() - began
    path = write.end({"run": str(run), "id": record.get("id")}, done, skipped)
    for entry in done:
        if "class" in entry:
            print(f"{escaped(entry['file'])}  {escaped(entry['class'])}  {entry['probabilities'][entry['class']]:.4f}")
    print(escaped(path))
    if read.dark:
        print(
            f"warning: {plural(len(read.dark), 'image')} (first: {escaped(read.dark[0])}) of 16 bits have no value "
            f"that needs more than {FEW_BITS}: dark as they are to the model. If they have fewer bits, save them "
            "with 8",
            file=sys.stderr,
        )
    print(f"{plural(len(done), 'image')} in {seconds:.1f} s, {len(done) / seconds:.3g} a second", file=sys.stderr)
    if skipped:
        print(f"error: {len(skipped)} of {len(files)} images were skipped, listed above", file=sys.stderr)
    return 1 if skipped else 0


if __name__ == "__main__":
    run_command(main, interrupted=lambda: "interrupted; the same command does all images again")
