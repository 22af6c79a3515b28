"""What a config may say: each mistake is found before anything costs, and named with the key, the value, the way out.

check_values(plain, resolved)       # ConfigError: epochs is 0; it must be an integer at least 1
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from src.common.errors import ConfigError
from src.common.ranges import Check, Count, Flag, Fraction, NonNegative, Positive, Range, Share, checks_in, shown
from src.common.spelling import did_you_mean
from src.config import signatures, targets
from src.config.identity import resolved_values
from src.config.moved import new_name
from src.config.origins import Origins, at, content_of, leaves

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"

# Parts of a config that no mistyped key is taken for.
HIDDEN = ("hydra", "run")

# Groups of which a run needs no option.
OPTIONAL_GROUPS = ("experiment", "search", "debug")

# Mappings of objects by name; null leaves one out.
NAMED_MEMBERS = (("callback",), ("metric",), ("data", "transforms"))

# What lies in a run's folder, or beside runs.
TAKEN_NAMES = (
    *("checkpoints", "summaries", "saved_model", "evaluation", "branches", "run.json", "history.jsonl"),
    *("sweeps", "studies"),
)

# The paths of src.callbacks.
RUN_PATHS = ("directory", "best", "picture", "record")

# What options of src.data take as the name of a folder.
PATHS_OF_DATA = ("path", "data_dir", "cache_dir")

FILLED_IN = ("run", "parent")

NOWHERE = Origins()

FOLDER_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"

# What stands in no signature of the project's.
CHECKS = {
    "name": Check(
        lambda x: isinstance(x, str) and bool(re.fullmatch(FOLDER_NAME, x)) and x not in TAKEN_NAMES,
        "a folder's name: at most 100 letters, digits, '.', '_' and '-', and none that is taken: "
        + ", ".join(TAKEN_NAMES),
        schema={"type": "string", "pattern": f"^{FOLDER_NAME}$", "not": {"enum": list(TAKEN_NAMES)}},
    ),
    "may_fail": Check(
        lambda x: x is None or (isinstance(x, list) and all(isinstance(name, str) for name in x)),
        "a list of names of callbacks, or null",
    ),
    **checks_in(
        {
            **dict.fromkeys(("epochs", "batch_size", "log_every_steps"), Count),
            "seed": Annotated[int, Range(0, 2**32 - 1)],
            "mode": Literal["min", "max"],
            "stale": Literal["ask", "reuse", "rerun"],
            "max_seconds": Positive | None,
            "precision": Literal["mixed_bfloat16", "mixed_float16"] | None,
            **dict.fromkeys(("trainer.threads", "trainer.overfit_batches"), Count | None),
            **dict.fromkeys(("trainer.limit_train_batches", "trainer.limit_val_batches"), Count | None),
        }
    ),
}

# Arguments of Keras's classes, where they are numbers.
OF_KERAS = checks_in(
    {
        "learning_rate": Positive,
        "momentum": Fraction,
        "use_ema": Flag | None,
        **dict.fromkeys(("beta_1", "beta_2", "rho", "ema_momentum", "label_smoothing"), Share),
        **dict.fromkeys(("epsilon", "weight_decay"), NonNegative),
    }
)

# Mappings that a name stands for, as hydra.sweeper.sampler=random.
NAMED = ("hydra.sweeper.sampler", "hydra.sweeper.pruner")

# What may be a number or a list, or a mapping or a name, whatever its default is.
OF_SEVERAL_TYPES = ("data.image_size", *NAMED)


@functools.cache
def folders_of_options() -> set[str]:
    """The project's groups, `hydra` among them."""
    return {folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()}


@functools.cache
def keys_of_root() -> list[str]:
    """What the project reads at the top, whichever file says it."""
    return list(content_of(CONFIG_DIR / "train.yaml"))


def option_of(group: str, option: str) -> dict[str, Any]:
    """What a file of the project's options says, below its group; {} where there is none."""
    path = CONFIG_DIR / group / f"{option}.yaml"
    try:
        content = content_of(path) if path.is_file() else {}
    except (OmegaConfBaseException, MarkedYAMLError):
        return {}
    found: dict[str, Any] = {}
    for base in content.get("defaults") or []:
        if isinstance(base, str) and base not in ("_self_", option):
            found |= option_of(group, base)
    return cast(dict[str, Any], found | (content[group] if isinstance(content.get(group), dict) else content))


def check_targets(config: dict[str, Any], origins: Origins) -> None:
    """No `_target_` of a resolved config may name what its group does not have; nothing is imported to find out."""
    try:
        targets.check_names(config)
    except targets.TargetError as error:
        key = str(error).partition(" ")[0].rstrip(":")
        raise ConfigError(f"{origins.named(key)}{error}{_option_meant(key, at(config, key.split('.')))}") from error
    for key, node in targets.nodes(config):
        if targets.group_of(key) and (absent := signatures.absent(node["_target_"])):
            raise ConfigError(f"{origins.named(f'{key}._target_')}{key}._target_ is {node['_target_']!r}: {absent}")


def _option_meant(key: str, target: Any) -> str:
    """How to choose the option of a group that a `_target_` is called after, as by SGD."""
    group, word = key.partition(".")[0], str(target).replace("_", "").lower()
    options = [path.stem for path in (CONFIG_DIR / group).glob("*.yaml") if path.stem.replace("_", "") == word]
    return f"; {_way_to_choose(group, options[0])}" if options and key == f"{group}._target_" else ""


def _way_to_choose(group: str, option: str) -> str:
    return (
        f"an option is chosen by {group}={option}, in a file by a line of its defaults, `- override /{group}: {option}`"
    )


def check_types(config: dict[str, Any], origins: Origins) -> None:
    """Every resolved value must be of the type of the option's own default, where that says one."""
    for path, value in leaves(config):
        if ".".join(path) in OF_SEVERAL_TYPES:
            continue
        for above in range(1, len(path)):
            if not isinstance(default := origins.default(path[:above]), dict | None):
                raise _wrong_type(path[:above], {path[-1]: value}, default, origins)
        default = origins.default(path)
        if default is None or "???" in (default, value) or (value is None and isinstance(default, dict)):
            continue
        if isinstance(value, bool) == isinstance(default, bool) and isinstance(
            value, int | float if isinstance(default, float) else type(default)
        ):
            continue
        raise _wrong_type(path, value, default, origins)


def _wrong_type(path: tuple[str, ...], value: Any, default: Any, origins: Origins) -> ConfigError:
    key = ".".join(path)
    example = " of options, or null" if isinstance(default, dict) else f", such as its default {shown(default)}"
    if isinstance(value, str) and path[1:] == () and key in folders_of_options():
        example += f"; {_way_to_choose(key, value)}"
    return ConfigError(
        f"{origins.origin(key) or key}: {key} is {shown(value)}{'' if value is None else f', {_kind(value)}'}; "
        f"it must be {_kind(default)}{example}"
    )


def check_values(plain: dict[str, Any], config: dict[str, Any], origins: Origins = NOWHERE) -> None:
    """Ranges, required values, and what only the whole config shows.

    Args:
        plain: the config as it is written.
        config: the same resolved.
    """
    if missing := {".".join(path) for path, value in leaves(config) if value == "???"}:
        first = min(missing)
        raise ConfigError(f"{origins.named(first)}{', '.join(sorted(missing))} must be given: {first}=...")
    for key, check in CHECKS.items():
        value = at(config, key.split("."))
        if value is not ... and not check.allows(value):
            raise ConfigError(origins.named(key) + check.refusal(key, value))
    _check_arguments(plain, config, origins)
    _check_paths(config, origins)
    parts = config["trainer"].get("gradient_accumulation_steps") or 1
    rows = at(config, ("data", "batch_size"))
    if parts > (rows := config["batch_size"] if rows is ... else rows):
        key = "trainer.gradient_accumulation_steps"
        raise ConfigError(
            f"{origins.named(key)}{key} is {parts}, and batch_size is {rows}: a batch is computed in so many parts, "
            "each of at least one example; give fewer, or a larger batch_size"
        )
    for key in ("learner", "trainer.jit_compile") if config.get("strategy") else ():
        if at(config, key.split(".")) not in (..., None, False):
            raise ConfigError(
                f"{origins.named(key)}{key} does not go with a strategy, whose replicas take the plain steps of "
                "Supervised together; leave one of the two out"
            )
    if is_of_workers(config) and config["evaluate_test"]:
        raise ConfigError(
            f"{origins.named('evaluate_test')}evaluate_test does not go with strategy=multi_worker, of whose processes "
            "only the first has the best weights; once the run is over, type python -m src.evaluate RUN split=test"
        )
    if (done := config["parent"]["epoch"]) is not None and config["epochs"] <= done:
        raise ConfigError(
            f"epochs is {config['epochs']}, and {config['resume']} has done {done}: "
            "a branch counts those of its parent, so give more"
        )
    _check_members(config, origins)


def is_of_workers(config: Mapping[str, Any]) -> bool:
    """Whether several processes train the run together."""
    return ((config.get("strategy") or {}).get("_target_") or "").endswith(".MultiWorker")


def check_workers_of_jobs(config: DictConfig) -> None:
    """Raise ConfigError where a sweep's jobs are to be trained by several processes, and nothing starts these."""
    if is_of_workers(config) != bool(config.hydra.launcher.get("workers")):
        raise ConfigError(
            "--multirun with strategy=multi_worker needs hydra/launcher=slurm hydra.launcher.workers=4, the processes "
            "of each job, which no other strategy takes; else start each run's processes by itself, without --multirun"
        )


def _check_arguments(plain: dict[str, Any], config: dict[str, Any], origins: Origins) -> None:
    """Each target's arguments must be what its signature says of them, or the table of Keras's."""
    # What the trainer does not take itself, it hands to its learner.
    takers = ("src.training.trainer.Trainer", "src.training.learner.Supervised")
    trainer = [("trainer", {"_target_": name, **config["trainer"]}) for name in takers]
    for key, node in [*targets.nodes(config), *trainer]:
        name = new_name(node["_target_"])
        known = {**(OF_KERAS if signatures.of_keras(name) else {}), **signatures.checks(name)}
        places = node.get("_args_") or []
        by_place = zip(signatures.positional(name) if places else [], places, strict=False)
        given = [(argument, f"_args_[{number}]", value) for number, (argument, value) in enumerate(by_place)]
        given += [(argument, argument, value) for argument, value in node.items()]
        for argument, place, value in given:
            check = known.get(argument)
            if check is None or check.allows(value) or any(targets.nodes(value)):
                continue
            if value is None and key == "optimizer":  # which is built without it
                continue
            if source := _source(plain, f"{key}.{place}"):
                raise ConfigError(origins.named(source.replace("[", ".[")) + check.refusal(source, value))


def _source(plain: dict[str, Any], key: str) -> str | None:
    """The key that a value is written at, which another may refer to; None where the run fills it in."""
    while True:
        above, _, last = key.rpartition(".")
        node = at(plain, above.split("."))
        if not isinstance(node, dict):  # in a list, or what another key refers to
            found = OmegaConf.select(OmegaConf.create(plain), above)
            node = plain_values(found) if OmegaConf.is_dict(found) else {}
        text = node.get(last)
        if not is_open(text) or text == "???":
            return key
        if "${run." in text:
            return None
        if not (named := re.fullmatch(r"\$\{([\w.]+)\}", text)):
            return key
        key = named[1]


def _check_paths(config: dict[str, Any], origins: Origins) -> None:
    """What the project's data options take as a folder must be the name of one."""
    data = config["data"] if isinstance(config["data"], dict) else {}
    target = new_name(str(data.get("_target_")))
    for name in PATHS_OF_DATA if target.startswith("src.data.") else ():
        key, value = f"data.{name}", data.get(name)
        may_be_null = name != "path" or name not in data or not target.startswith("src.data.images.")
        if not isinstance(value, str) and not (value is None and may_be_null):
            quoted = f"; in quotes it is one: \"{key}='{value}'\"" if isinstance(value, int | float) else ""
            raise ConfigError(
                f"{origins.named(key)}{key} is {shown(value)}{'' if value is None else f', {_kind(value)}'}; "
                f"it must be the name of one folder{', or null' * may_be_null}{quoted}"
            )


def check_run_paths(config: Mapping[str, Any], origins: Origins = NOWHERE, *, run_dir: Path | None = None) -> None:
    """What the project's own callbacks write, and delete, must lie in the run's directory.

    Args:
        config: resolved; its `callback` is judged.
        run_dir: the run's directory; None where it is not known yet, and only paths that leave any are found.

    Raises:
        ConfigError: naming where the path comes from, its key and value.
    """
    for key, node in targets.nodes(config.get("callback"), "callback"):
        if not new_name(str(node["_target_"])).startswith("src.callbacks."):
            continue
        for name in set(node) & set(RUN_PATHS):
            path = node[name]
            if not isinstance(path, str):
                continue
            if run_dir is None:
                outside = Path(path).is_absolute() or ".." in Path(path).parts
            else:
                outside = not Path(path).resolve().is_relative_to(run_dir.resolve())
            if outside:
                raise ConfigError(
                    f"{origins.named(f'{key}.{name}')}{key}.{name} is {path!r}, outside of the run's directory, where "
                    f"a run writes and deletes; write it as ${{run.dir}}/..., or leave it out"
                )


def _check_members(config: dict[str, Any], origins: Origins) -> None:
    """What is added to a mapping of objects must say what object it is."""
    for path in NAMED_MEMBERS:
        members = at(config, path)
        for name, member in members.items() if isinstance(members, dict) else ():
            if member is not None and not (isinstance(member, dict) and "_target_" in member):
                key = ".".join((*path, name))
                raise ConfigError(
                    f"{origins.named(key)}{key} has no _target_, so nothing would come of it; {'.'.join(path)} has "
                    f"{', '.join(other for other in members if other != name)}"
                )


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """A config as dicts and lists, interpolations as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def resolved_node(cfg: DictConfig, key: str) -> Any:
    """One node, as dicts, lists and final values."""
    try:
        node = OmegaConf.select(cfg, key)
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error


def resolved(plain: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """As `resolved_values`; ConfigError names what cannot be resolved, and where it comes from."""
    try:
        return resolved_values(plain)
    except OmegaConfBaseException as error:
        key = str(error.full_key)
        for name, value in plain.items():
            if not isinstance(value, dict | None) and isinstance(default := origins.default((name,)), dict):
                raise _wrong_type((name,), value, default, origins) from error
        value, reason = (
            at(plain, key.split(".")),
            first_line(error).rpartition(" raised while resolving interpolation: ")[2],
        )
        if missing := re.fullmatch(r"Interpolation key '(.+)' not found", reason):
            known = [".".join(path) for path, _ in leaves(plain, branches=True) if path[0] != "hydra"]
            reason = f"there is no key {missing[1]}{did_you_mean(missing[1], known)}"
        if "'hydra." in str(error):
            reason = f"{first_line(error)}; what a run computes cannot depend on Hydra's settings, so give a value"
        written = f" is {shown(value)}" if isinstance(value, str) else ""
        raise ConfigError(f"{origins.named(key)}{key}{written}: {reason}") from error


def is_open(value: Any) -> bool:
    """Whether a value as it is written is only known from others, or must be given."""
    return isinstance(value, str) and ("${" in value or value == "???")


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "null" if value is None else "a mapping")


def first_line(error: BaseException, *, lines: int = 1) -> str:
    return "\n".join(str(error).strip().splitlines()[:lines])
