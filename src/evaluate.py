"""Measure a run's best weights, and its SavedModel, on a split.

python -m src.evaluate outputs/digits/cnn-adam-lr0.003-cosine-e20-b32-s0-1a2b3c4d split=test
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from src.config import ConfigError
from src.logs import importing
from src.machine import available_cores
from src.runs.identity import identity_config, register_resolvers
from src.runs.provenance import differences, fingerprints
from src.runs.record import Record

SPLITS = ("train", "val", "test")
TOLERANCE = 1e-6
USAGE = f"""usage: python -m src.evaluate RUN [split={"|".join(SPLITS)}]

  RUN  a run's directory: outputs/<name>/<label>-<id>; the split is test where the data has one, else val"""


def main() -> None:
    """The command line; exits with 0, 1 where it fails or the two disagree, 2 for a wrong command."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    try:
        run, split = _parse(arguments)
        cfg = load_config(run)
        record = Record(run).read() or {}
        if changed := differences(record.get("fingerprints") or {}, fingerprints(identity_config(cfg))):
            print(f"note: changed since this run: {', '.join(changed)}", file=sys.stderr)
        split, results = evaluate(cfg, run, split)
    except Exception as error:
        print(f"error: {error}" if str(error) else f"error: {error!r}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    _print(results, split)
    disagree = [name for name, (ours, exported) in results.items() if not abs(ours - exported) <= TOLERANCE]
    if disagree:
        print(f"error: best weights and SavedModel disagree in {', '.join(disagree)}", file=sys.stderr)
        sys.exit(1)


def load_config(run: Path) -> DictConfig:
    """The config that a run was trained with.

    Raises:
        ConfigError: the folder is no run's.
    """
    path = run / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} is no run: it has no .hydra/config.yaml. Runs are outputs/<name>/<label>-<id>")
    register_resolvers()
    return cast(DictConfig, OmegaConf.load(path))


def evaluate(cfg: DictConfig, run: Path, split: str | None) -> tuple[str, dict[str, tuple[float, float]]]:
    """The split, and loss and metrics by name, each as measured with the best weights and with the SavedModel.

    Args:
        split: None takes test, or val where there is no test.

    Raises:
        ValueError: the data has no such split.
        FileNotFoundError: the run has no best checkpoint or no SavedModel yet.
    """
    with importing():
        from src import build
        from src.callbacks.checkpoint import BEST
        from src.callbacks.export import VERSION
        from src.checkpoints import Checkpoints

        threads = ((Record(run).read() or {}).get("environment") or {}).get("threads")
        build.set_up_process(threads=threads or available_cores())
    import tensorflow as tf

    saved_model = run / "saved_model" / VERSION
    if not saved_model.is_dir():
        raise FileNotFoundError(f"{saved_model} is not there; type the run's command again to complete it")
    data = build.build_data(cfg)
    split = split or ("val" if data.test is None else "test")
    batches = data.split(split)
    trainer = build.build_trainer(cast(DictConfig, OmegaConf.merge(cfg, {"callback": None})), data, run_dir=run)
    if Checkpoints(run / "checkpoints" / BEST).restore_weights(trainer.state) is None:
        raise FileNotFoundError(f"{run / 'checkpoints' / BEST} has no checkpoint; type the run's command again")
    ours = trainer.evaluate(batches)

    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]
    exported = trainer.evaluate_outputs(lambda image: serve(image=image)["logits"], data.raw(split))
    return split, {name: (ours[name], exported[name]) for name in ours}


def _parse(arguments: list[str]) -> tuple[Path, str | None]:
    options = [a for a in arguments if a.startswith("split=")]
    paths = [a for a in arguments if a not in options]
    split = options[-1].partition("=")[2] if options else None
    if len(paths) != 1:
        raise ConfigError(f"{' '.join(arguments)!r}: one run is wanted\n{USAGE}")
    if split not in (None, *SPLITS):
        raise ConfigError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    return Path(paths[0]), split


def _print(results: dict[str, tuple[float, float]], split: str) -> None:
    width = max(map(len, [*results, split]))
    print(f"{split:<{width}}  {'best weights':>12}  {'SavedModel':>12}")
    for name, values in results.items():
        print(f"{name:<{width}}  " + "  ".join(f"{value:12.6f}" for value in values))


if __name__ == "__main__":
    main()
