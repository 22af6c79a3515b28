"""Data sets of TensorFlow Datasets on this machine: found where they lie, or prepared where there is network.

    builder = prepared("oxford_iiit_pet:4.*.*", command="python -m src.data data=oxford_iiit_pet")

A prepared set is a folder NAME/VERSION, or NAME/CONFIG/VERSION, in the data folder. It is read without its code and
without network, so it can be prepared elsewhere and copied.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import logging
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from src.data.image_data import DataError

log = logging.getLogger(__name__)

HOST_SECONDS = 3.0  # to wait for a host's first answer
HOSTS = 3  # of a set are asked
INFO = "dataset_info.json"  # written last: a folder that has it is complete
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # what names a feature's class, in TFDS's formats


def prepared(
    dataset: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = True, command: str
) -> tfds.core.DatasetBuilder:
    """The builder of a prepared set; it is downloaded and prepared first where it is missing.

    Any number of processes may call this at once: one prepares and the others wait for it.

    Args:
        dataset: NAME, NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION; `*` stands for any number in a version.
        data_dir: TFDS's data folder: by default TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        download: whether the network may be used.
        command: what to type where there is network, up to `data.data_dir=...`, for messages.

    Raises:
        ValueError: there is no such data set, configuration or version, or the folder is not on this machine.
        DataError: it is not prepared and cannot be, or what is there is damaged.
    """
    name, config, version = _parsed(dataset)
    root = data_root(data_dir, name)
    folder = _stored(root, name, config, version)
    if folder is None:
        builder = _with_code(dataset, root, name, config, version)
        asked = f"the data set {dataset} is not prepared in {root}"
        elsewhere = (
            f"Where there is network: {command} data.data_dir=FOLDER\nThen copy FOLDER/{name} into {root}, or name "
            "the folder with data.data_dir=FOLDER or the environment variable TFDS_DATA_DIR."
        )
        if not download:
            raise DataError(f"{asked}, and data.download is false.\n{elsewhere}")
        _check_manual_files(builder, root)
        if reason := unreachable(builder.url_infos or ()):
            raise DataError(f"{asked}, and {reason}.\n{elsewhere}")
        with locked(root / name):
            folder = _stored(root, name, config, version) or _prepare(builder)
    check_features(folder)
    try:
        with quiet():
            return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the parsers raise
        raise damaged(folder, str(error)) from error


def damaged(path: Path, reason: str) -> DataError:
    """The error that names a file or folder of a prepared set, and the way out."""
    return DataError(
        f"{path} is damaged: {' '.join(reason.split())[:300]}.\n"
        "Copy the set's folder anew, or remove it, to have it prepared again where there is network."
    )


def check_features(folder: Path) -> None:
    """Judge the classes that a prepared set names for its features, since TFDS imports any.

    Raises:
        DataError: one is not of TFDS, or a file cannot be read.
    """
    for file in (folder / "features.json", folder / INFO):
        try:
            content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            names = sorted(set(_class_names(content.get("features") if file.name == INFO else content)))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise damaged(folder, f"{file.name}: {error}") from error
        if others := [name for name in names if not name.startswith("tensorflow_datasets.")]:
            raise DataError(
                f"{file} has features of {', '.join(map(repr, others[:3]))}, and reading it would run that code: only "
                "classes of tensorflow_datasets are read.\nPrepare the set anew with features of TFDS's own."
            )


def _class_names(value: Any) -> Iterator[str]:
    """All that name a class, at any depth, and in the JSON that texts hold."""
    if isinstance(value, dict):
        yield from (value[key] for key in CLASS_KEYS if isinstance(value.get(key), str))
        for item in value.values():
            yield from _class_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _class_names(item)
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(json.JSONDecodeError):  # a sentence
            yield from _class_names(json.loads(value))


def data_root(data_dir: str | os.PathLike[str] | None, name: str) -> Path:
    """TFDS's data folder: the one given, or TFDS_DATA_DIR, or `~/tensorflow_datasets`.

    TFDS reads TFDS_DATA_DIR once, when it is imported; this reads it now.

    Raises:
        ValueError: it is not of this machine's file system.
    """
    given = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if "://" in given:
        raise ValueError(
            f"the {name} data set needs a data folder on this machine, not {given}: "
            "set data.data_dir or the environment variable TFDS_DATA_DIR"
        )
    return Path(given).expanduser().absolute()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder (made if missing); the kernel releases it even after a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another process that is preparing data set %s in %s", folder.name, folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TFDS's own log lines below a warning, and its progress bars off a terminal, out of the output."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    absl_log = logging.getLogger("absl")
    level = absl_log.level
    absl_log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        absl_log.setLevel(level)


def unreachable(urls: Iterable[str], *, seconds: float = HOST_SECONDS) -> str:
    """Why none of the hosts of these addresses answers within the time, through the proxies that are set; else "".

    TFDS itself tries for minutes.
    """
    addresses = {urllib.parse.urlsplit(url).netloc: url for url in urls if "://" in url}
    hosts = list(addresses)[:HOSTS]
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    for host in hosts:  # looking up a name knows no time limit: hence threads that nobody waits for
        threading.Thread(target=lambda h: answers.put(_reason(addresses[h], seconds)), args=[host], daemon=True).start()
    reasons, deadline = [], time.monotonic() + seconds + 1
    for _ in hosts:
        try:
            reasons.append(answers.get(timeout=max(0, deadline - time.monotonic())))
        except queue.Empty:
            reasons.append(f"no answer in {seconds:g} s")
        if not reasons[-1]:
            return ""
    return f"{' and '.join(hosts)} cannot be reached ({reasons[0]})" if hosts else ""


def _reason(url: str, seconds: float) -> str:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:  # it has answered
        return ""
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _parsed(dataset: str) -> tuple[str, str | None, str | None]:
    try:
        name, options = tfds.core.naming.parse_builder_name_kwargs(dataset)
        config, version = options.pop("config", None), options.pop("version", None)
        if options or name.namespace:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"data.dataset is {dataset!r}; it must be NAME, NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION "
            "with three numbers in a version, such as oxford_iiit_pet:4.*.*"
        ) from error
    return name.name, config, version and str(version)


def _stored(root: Path, name: str, config: str | None, version: str | None) -> Path | None:
    """The folder of the newest prepared version that will do, or None.

    Raises:
        DataError: only folders of it that have been copied in part.
    """
    versions = _versions(root / name / (config or ""))
    if not config and not versions and (root / name).is_dir():
        configs = {path.name: found for path in (root / name).iterdir() if (found := _versions(path))}
        versions = configs.get(_default_config(name)) or (next(iter(configs.values())) if len(configs) == 1 else {})
    suitable = sorted(v for v in versions if not version or v.match(version))
    complete = [v for v in suitable if (versions[v] / INFO).is_file()]
    if suitable and not complete:
        raise damaged(versions[suitable[-1]], f"it has no {INFO}")
    return versions[complete[-1]] if complete else None


def _versions(folder: Path) -> dict[tfds.core.Version, Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {tfds.core.Version(path.name): path for path in paths if tfds.core.Version.is_valid(path.name)}


def _default_config(name: str) -> str:
    try:
        config = tfds.builder_cls(name).default_builder_config
    except Exception:  # a set of the user's, whose code is not there
        return ""
    return config.name if config else ""


def _with_code(
    dataset: str, root: Path, name: str, config: str | None, version: str | None
) -> tfds.core.DatasetBuilder:
    """A builder that can prepare the set."""
    here = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.is_dir() else []
    prepared_as = sorted(str(path.parent.relative_to(root / name)) for path in (root / name).glob(f"**/{INFO}"))
    there = f"; prepared in {root}: {', '.join(prepared_as)}" if prepared_as else ""
    try:
        builder_class = tfds.builder_cls(name)
    except tfds.core.registered.DatasetNotFoundError:
        if there:
            raise ValueError(f"data.dataset is {dataset!r}{there}; ask for one of these") from None
        known = {*tfds.list_builders(with_community_datasets=False), *here}
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        raise ValueError(
            f"data.dataset is {dataset!r}, which is neither prepared in {root} nor a data set that TensorFlow Datasets "
            f"{tfds.__version__} can prepare" + (f". Did you mean {' or '.join(near)}?" if near else "")
        ) from None
    try:
        return builder_class(data_dir=root, config=config, version=version)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"data.dataset is {dataset!r}: {' '.join(str(error).split())[:300]}{there}") from error


def _check_manual_files(builder: tfds.core.DatasetBuilder, root: Path) -> None:
    folder = root / "downloads" / "manual"
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if instructions and not (folder.is_dir() and any(folder.iterdir())):
        lines = [line.strip() for line in instructions.strip().splitlines() if line.strip()]
        raise DataError(
            "\n".join([f"{builder.name} must be downloaded by hand into {folder}, as its makers want it:", *lines[:7]])
        )


def _prepare(builder: tfds.core.DatasetBuilder) -> Path:
    """Download and prepare; the caller holds the lock."""
    folder = Path(builder.data_dir)
    log.info("Preparing data set %s in %s", builder.name, folder)
    try:
        with quiet(), contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except Exception as error:  # of the network, the disk, a library that the set needs, ...
        reason: Any = " ".join(str(error).split())[:400] or repr(error)
        raise DataError(f"{builder.name} could not be prepared in {folder}: {reason}") from error
    return folder
