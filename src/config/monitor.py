"""Whether the metric that says which epoch is best is one of the run's, and the mode is the way in which it is better.

check_monitor(config, origins)      # ConfigError: monitor is 'val/acuracy', which is no metric of this run; ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.common.errors import ConfigError
from src.common.ranges import shown
from src.common.spelling import did_you_mean
from src.config.checks import CONFIG_DIR, option_of
from src.config.origins import Origins

HIGHER_IS_BETTER = ("accuracy", "auc", "precision", "recall", "f1", "iou", "dice", "r2")
LOWER_IS_BETTER = ("loss", "mae", "mse", "rmse", "perplexity")


def check_monitor(config: Mapping[str, Any], origins: Origins) -> None:
    """Raise ConfigError unless `monitor` is a split and one of the config's metrics.

    One with a list `scores` is called by these names, and has one for each class for each of its list `per_class`.
    """
    monitor, metrics = config["monitor"], config.get("metric") or {}
    own = ["loss", *_scores(metrics)]
    of_classes = [
        name for m in metrics.values() if isinstance(m, dict) and "scores" in m for name in m.get("per_class") or ()
    ]
    names = [f"{split}/{metric}" for split in ("train", "val") for metric in own]
    split, _, metric = str(monitor).partition("/")
    of_class = split in ("train", "val") and any(metric.startswith(f"{score}/") for score in of_classes)
    if split in ("train", "val") and config.get("learner"):
        return  # it may have metrics of its own; the trainer knows them
    if monitor not in names and not of_class:
        classes = "".join(f", val/{score}/<class>" for score in of_classes)
        files = sorted((CONFIG_DIR / "metric").glob("*.yaml")) if split in ("train", "val") else []
        known = {path.stem: _scores(option_of("metric", path.stem)) for path in files}
        having = [
            f"metric={option} has {split}/{score}"
            for option, scores in known.items()
            for score in scores
            if metric in (score, score.removeprefix("mean_"))
        ]
        hint = f". {', '.join(having)}" if having else did_you_mean(str(monitor), names)
        raise ConfigError(
            f"{origins.named('monitor')}monitor is {shown(monitor)}, which is no metric of this run; it has "
            f"{', '.join(names)}{classes}{hint}"
        )


def check_direction(config: Mapping[str, Any], origins: Origins) -> None:
    """Raise ConfigError where the worst epoch would be kept for the best one, as far as the monitor's name tells."""
    name = str(config["monitor"]).split("/")[1].removeprefix("mean_")
    right = "max" if name in HIGHER_IS_BETTER else "min" if name in LOWER_IS_BETTER else config["mode"]
    if config["mode"] != right and not config.get("learner"):
        raise ConfigError(
            f"{origins.named('mode')}mode is {config['mode']}, which would take the epoch of the worst "
            f"{config['monitor']} for the best; give mode={right}"
        )


def _scores(metrics: dict[str, Any]) -> list[str]:
    """The names of all metrics of an option."""
    found: list[str] = []
    for name, metric in metrics.items():
        if isinstance(metric, dict):
            found += metric["scores"] if isinstance(metric.get("scores"), list) else [name]
    return found
