"""What a config says of its data, and the files that it names: whether they are there, and have the columns asked for.

check_inputs(config, origins)   # ConfigError: data.path is 'nowhere', and there is no such file or folder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.common.code import ROOT
from src.common.columns import absent_column, column_names
from src.common.errors import ConfigError
from src.common.ranges import shown
from src.config.moved import new_name
from src.config.origins import Origins, at

# What takes a run or a file of weights.
PATHS_OF_MODELS = ("init_from", "learner.teacher")
# The options of data that name columns, and the table that is read where `data.path` is null.
COLUMNS = {
    "src.data.tables.table": ("target", "columns", "kinds", "missing", "weight", "split"),
    "src.data.texts.texts": ("text", "label", "split"),
    "src.data.sequences.windows": ("columns",),
}
BUILT_IN = {"src.data.tables.table": ROOT / "src" / "data" / "diabetes" / "diabetes.csv"}


def check_inputs(config: dict[str, Any], origins: Origins) -> None:
    """What the config names as data, or to take weights or answers from, must be there, and leave rows to train on.

    Args:
        config: resolved, and judged by `src.config.checks`.

    Raises:
        ConfigError: naming where the value comes from, its key, the value and the way out.
    """
    for key in ("data.path", *PATHS_OF_MODELS):
        path = at(config, key.split("."))
        if isinstance(path, str) and "://" not in path and not Path(path).expanduser().exists():
            raise ConfigError(
                f"{origins.named(key)}{key} is {shown(path)}, and there is no such file or folder"
                f"{'' if Path(path).expanduser().is_absolute() else f' in {Path.cwd()}'}"
            )
    data = config.get("data") or {}
    kind = new_name(str(data.get("_target_")))
    shares: list[Any] = [data.get(name) for name in ("val_share", "test_share")]
    says_splits = any(data.get(name) is not None for name in ("split", "dataset"))  # a column, or the set itself
    if kind.startswith("src.data.") and not says_splits and None not in shares and sum(shares) >= 1:
        raise ConfigError(
            f"{origins.named('data.val_share')}data.val_share and data.test_share are {shares[0]} and {shares[1]}, "
            "which leaves nothing to train on; their sum must be below 1"
        )
    if kind.startswith("src.data.") and (fit := data.get("resize")):
        where = f"{origins.named('data.resize')}data.resize={fit}"
        if data.get("image_size") is None:
            raise ConfigError(f"{where} says how images get to data.image_size: give that too")
        # Of other sets only their files say whether they have masks.
        has_label = any(data.get(name) is not None for name in ("ignore_label", "ignore_color"))
        if fit == "pad" and data.get("kind") == "masks" and not has_label:
            raise ConfigError(
                f"{where} gives masks edges, which must count nowhere: give them a label, data.ignore_label=255"
            )
    path = data.get("path") or BUILT_IN.get(kind)
    if kind not in COLUMNS or path is None or not (known := column_names(Path(path).expanduser())):
        return
    if found := absent_column({key: data.get(key) for key in COLUMNS[kind]}, known, str(path)):
        key, problem = found
        raise ConfigError(f"{origins.named(key)}{problem}")
