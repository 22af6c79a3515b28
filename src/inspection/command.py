"""Look at a data set as a model will see it: counts, class shares, pixels, time a batch, and a picture.

python -m src.data data=digit_scenes
python -m src.data data=oxford_iiit_pet batch_size=64 --output pets.png

Options are those of src.train. A set that is missing is downloaded and prepared, as training would do. The picture
shows the first training examples as they are and as they are augmented, with their labels or masks; it goes to
outputs/<name>/data.png, where <name> is the data option's own, so that another folder's picture replaces it: give
name=... or --output. Images that two splits have in common are named: a model is measured on what it was trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.arguments import Parser
from src.common.files import replace
from src.common.logs import ConsoleHandler, importing
from src.common.machine import available_cores
from src.common.text import plural, print_table, size
from src.config.compose import compose

if TYPE_CHECKING:  # imports TensorFlow
    from src.inspection.summary import Summary

SHOWN_CLASSES = 30  # --json has all


def main(argv: list[str]) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m src.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="options, as of src.train")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the picture goes, a PNG")
    parser.add_argument(
        "--examples", metavar="N", type=int, default=10_000, help="look at the first N of each split; 10,000 by default"
    )
    parser.add_argument("--json", action="store_true", help="print all as one JSON object")
    parser.add_argument("--config-dir", metavar="DIR", help="a further folder of options")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.examples < 1:
        parser.error(f"--examples is {arguments.examples}; it must be at least 1")
    logger = logging.getLogger("src")
    logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    cfg = compose(arguments.overrides, config_dir=arguments.config_dir)
    with importing():
        from src import build
        from src.common.pictures import png
        from src.data.images.image_data import ImageData
        from src.inspection.summary import batch_picture, summarize

        build.set_up_process(threads=cfg.trainer.threads or available_cores())
    data = build.build_data(cfg)
    summary = summarize(data, examples=arguments.examples)
    path = arguments.output or Path("outputs", cfg.name, "data.png")
    if arguments.json:
        print(json.dumps(summary.as_json() | {"picture": str(path) if summary.are_images else None}, indent=2))
    else:
        show(summary)
    _warn(summary)
    if isinstance(data, ImageData) and summary.are_images:
        _write(path, png(batch_picture(data)))
        print(path, file=sys.stderr if arguments.json else sys.stdout)


def show(summary: Summary) -> None:
    """Print a summary to standard output."""
    if summary.are_images:
        shape, dtype = summary.image
        kind = f"masks {summary.target[1]}" if summary.target[0] else f"labels {summary.target[1]}"
        print(f"images   {' x '.join(map(str, shape))} {dtype}, {kind}, {len(summary.class_names)} classes")
    else:
        print(f"inputs   {_told(summary.image)}\ntargets  {_told(summary.target)}")
    if summary.mean:
        mean, deviation = (" ".join(f"{value:.3f}" for value in values) for values in (summary.mean, summary.deviation))
        print(f"{'pixels' if summary.are_images else 'inputs'}   mean {mean}, deviation {deviation} (training split)")
    print(
        f"time     {summary.batch_seconds * 1000:.3g} ms a batch of {summary.batch_size}, "
        f"{summary.images_a_second:,.0f} {'images' if summary.are_images else 'examples'} a second "
        "(training pipeline)\n"
    )
    numbers = ("examples", "batches", "size")
    splits = [("split", *numbers, "")]
    for name, split in summary.splits.items():
        where = "in memory" if split.in_memory else "read as needed"
        some = f", first {split.looked_at:,} looked at" if split.looked_at < split.examples else ""
        splits.append((name, f"{split.examples:,}", f"{split.batches:,}", size(split.bytes), where + some))
    print_table(splits, sys.stdout, right=numbers)
    if summary.parts:
        print()
        print_table([("part", "training examples"), *summary.parts.items()], sys.stdout)
    shares = {name: split.shares for name, split in summary.splits.items() if split.shares is not None}
    if not shares:
        return
    print()
    classes = [("class", *shares)]
    for i, class_name in enumerate(summary.class_names[:SHOWN_CLASSES]):
        classes.append((class_name, *(f"{share[i]:.2%}" for share in shares.values())))
    if any(split.ignored for split in summary.splits.values()):
        classes.append(("(ignored)", *(f"{summary.splits[name].ignored_share:.2%}" for name in shares)))
    print_table(classes, sys.stdout, right=shares)
    if len(summary.class_names) > SHOWN_CLASSES:
        print(f"... and {len(summary.class_names) - SHOWN_CLASSES} more classes with --json")


def _told(nest: Any) -> str:
    """Shapes and dtypes of an example: `float32`, `float32 24 x 1`, by name where there are several."""
    if isinstance(nest, dict):
        return ", ".join(f"{name}: {_told(part)}" for name, part in nest.items())
    if nest is None:
        return "none"
    if isinstance(nest, tuple) and len(nest) == 2 and isinstance(nest[1], str):
        return " ".join([nest[1].replace("object", "text"), " x ".join(map(str, nest[0]))]).strip()
    return ", ".join(map(_told, nest))


def _warn(summary: Summary) -> None:
    for shared in summary.shared:
        first, second = shared.splits
        example = f"{first} {shared.indices[0]} is {second} {shared.indices[1]}"
        print(
            f"warning: {plural(shared.examples, 'image')} of {second} {'is' if shared.examples == 1 else 'are'} "
            f"in {first} as well, byte for byte: {example}",
            file=sys.stderr,
        )
    if summary.missing:
        names = ", ".join(summary.missing[:10]) + (", ..." if len(summary.missing) > 10 else "")
        print(f"warning: no training example looked at has {names}", file=sys.stderr)


def _write(path: Path, picture: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, picture)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}); give another file as --output") from error
