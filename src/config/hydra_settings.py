"""What a config may ask of Hydra itself, which makes objects, opens files and sets variables for it before a run.

check_settings(settings, plugins)       # ConfigError: hydra.job.env_set.PATH cannot be given

`hydra.callbacks` are objects made by name. Hydra would hand `hydra.job_logging` to Python's logging, which calls
factories, put `hydra.job.env_set` into the environment, where PATH and LD_PRELOAD decide what runs, and import
`pkg://` search paths. `hydra.sweeper.params` are overrides of the jobs, which some sweepers hand over as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from src.config import signatures, targets
from src.config.checks import ConfigError
from src.config.origins import flat

HANDLERS = (
    "src.common.logs.ConsoleHandler",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.StreamHandler",
)
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
OF_HYDRA = re.compile(r"\bhydra\b")  # as an override's key, or as the package that an option is put into
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FILE = re.compile(r"\$\{hydra\.runtime\.output_dir\}/(\$\{hydra\.job\.name\}|[A-Za-z0-9_-]+)\.log")
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TFDS_DATA_DIR"),
    *("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "PYTHONUNBUFFERED", "NO_COLOR", "TZ"),
)


def check_search_path(paths: Any, where: str) -> None:
    """Raise ConfigError where a search path is no folder: others are imported."""
    if not isinstance(paths, Sequence) or isinstance(paths, str) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f"{where}: hydra.searchpath must be a list of folders, as hydra.searchpath=[my_conf]")
    for path in paths:
        scheme = re.match(r"(\w+)://", str(path))
        if scheme and scheme[1] != "file":
            raise ConfigError(f"{where}: {path} would be imported; give a folder, as a path or file://...")


PLUGINS = ("launcher", "sweeper", "callbacks")


def check_settings(settings: dict[str, Any], plugins: dict[str, Any]) -> None:
    """Judge Hydra's own node of a config.

    Args:
        settings: the node as it is written, interpolations unresolved.
        plugins: its `launcher`, `sweeper` and `callbacks`, resolved.

    Raises:
        ConfigError: naming the key.
    """
    for key in ("job_logging", "hydra_logging"):
        if not isinstance(settings.get(key) or {}, dict):
            raise ConfigError(f"hydra.{key} is {settings[key]!r}; it must be a mapping, or null")
        _check_logging(f"hydra.{key}", settings.get(key))
    job = settings.get("job") or {}
    if not FILE_NAME.fullmatch(str(job.get("name"))):
        raise ConfigError(f"hydra.job.name is {job.get('name')!r}; it must be a file's name: letters, digits, '.-_'")
    variables = job.get("env_set") or {}
    for name in variables if isinstance(variables, dict) else [str(variables)]:
        if name not in VARIABLES:
            raise ConfigError(
                f"hydra.job.env_set.{name} cannot be given, since a variable may decide what runs; set it in your "
                f"shell. A config may set {', '.join(VARIABLES)}"
            )
    subdir = settings.get("output_subdir")
    if subdir is not None and not FILE_NAME.fullmatch(str(subdir).removeprefix(".")):
        raise ConfigError(f"hydra.output_subdir is {subdir!r}; it must be a folder's name, without slashes, or null")
    sweeper = plugins.get("sweeper")
    params = sweeper.get("params") if isinstance(sweeper, dict) else None
    for key in params if isinstance(params, dict) else ():
        if OF_HYDRA.search(str(key)):
            raise ConfigError(
                f"hydra.sweeper.params has {str(key)!r}, a setting of Hydra's: a search varies keys of the runs alone; "
                "type it on the command line, for the whole sweep"
            )
    for name in ("launcher", "sweeper"):
        _check_plugin(f"hydra.{name}", plugins.get(name))
    for name, callback in (plugins.get("callbacks") or {}).items():
        if callback is not None:
            _check_plugin(f"hydra.callbacks.{name}", callback)


def _check_plugin(key: str, plugin: Any) -> None:
    if not isinstance(plugin, dict) or "_target_" not in plugin:
        raise ConfigError(f"{key} is {plugin!r}; it must be a mapping with the _target_ of what it is")
    found = list(targets.nodes(plugin, key))
    try:
        for inner, node in found:
            targets.check_name(node["_target_"], inner)
    except targets.TargetError as error:
        raise ConfigError(str(error)) from error
    taken = signatures.names(str(plugin["_target_"]))
    for name in plugin:
        if taken is not None and name not in (*taken, *targets.OWN_KEYS):
            raise ConfigError(f"{key}.{name}: {signatures.takes_no(name, plugin['_target_'], taken)}")
    nested = [inner for inner, _ in found if inner != key]
    if nested and plugin.get("_recursive_", True) is not False:
        raise ConfigError(f"{nested[0]}._target_: {key} makes no objects of its options, unless _recursive_ is false")


def _check_logging(key: str, node: Any) -> None:
    for path, value in flat(node, key):
        name, last = str(value), path.rpartition(".")[2]
        if re.fullmatch(rf"{re.escape(key)}\.handlers\.\w+\.class", path):
            allowed: Sequence[str] = HANDLERS
        elif last in ("class", "()") or ".." in path:  # a key that is a dot sets attributes
            allowed = ()
        elif last == "filename" and LOG_FILE.fullmatch(name):
            continue
        elif last == "filename":
            allowed = ("${hydra.runtime.output_dir}/<name>.log",)
        elif "://" in name and name not in STREAMS:
            allowed = STREAMS
        elif "${" in name or (last == "style" and name == "{"):
            allowed = ()
        else:
            continue
        if name not in allowed:
            ways = f"it must be one of {', '.join(allowed)}" if allowed else "leave it out"
            raise ConfigError(f"{path} is {name!r}, which a config may not say; {ways}")
