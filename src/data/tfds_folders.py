"""Data sets of TensorFlow Datasets on this machine: found where they lie, or prepared where there is network.

    builder = prepared("oxford_iiit_pet:4.*.*", command="python -m src.data data=oxford_iiit_pet")

A prepared set is a folder NAME/VERSION, or NAME/CONFIG/VERSION, in the data folder. It is read without its code and
without network, so it can be prepared elsewhere and copied.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils.version import list_all_versions

from src.common.errors import one_line
from src.common.files import delete
from src.common.lock import hold
from src.common.spelling import did_you_mean
from src.data.data import DataError

log = logging.getLogger(__name__)

HOSTS, HOST_SECONDS = 3, 3.0  # how many hosts are asked, and how long each may take to answer
INFO = "dataset_info.json"  # written last: a folder that has it is complete
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # what names a feature's class, in TFDS's formats
OTHER_FOLDER = "name another folder with data.data_dir=FOLDER or the environment variable TFDS_DATA_DIR"


def prepared(
    dataset: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = True, command: str
) -> tfds.core.DatasetBuilder:
    """The builder of a prepared set; it is downloaded and prepared first where it is missing.

    Any number of processes may call this at once: one prepares and the others wait for it.

    Args:
        dataset: NAME, NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION; `*` stands for any number in a version.
        data_dir: TFDS's data folder: by default TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        download: whether a missing set may be prepared.
        command: what to type where there is network, up to `data.data_dir=...`, for messages.

    Raises:
        ValueError: there is no such data set, configuration or version, or the folder is not on this machine.
        DataError: it is not prepared and cannot be, or what is there is damaged.
    """
    name, config, version = _parsed(dataset)
    root = data_root(data_dir, name)
    folder = _stored(root / name, config, version)
    if folder is None:
        builder = _from_code(dataset, root, name, config, version)
        folder = Path(builder.data_dir)
        if not (folder / INFO).is_file():
            reason = unreachable(builder.url_infos or ()) if download else "data.download is false"
            if reason:
                raise DataError(
                    f"the data set {dataset} is not prepared in {root}, and {reason}.\n"
                    f"Where there is network: {command} data.data_dir=FOLDER\n"
                    f"Then copy FOLDER/{name} into {root}, or {OTHER_FOLDER}."
                )
            _prepare(builder, folder)
    check_features(folder)
    try:
        with quiet():
            return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the parsers raise
        raise damaged(folder, str(error)) from error


def damaged(path: Path, reason: str) -> DataError:
    """The error that names a file or folder of a prepared set, and the way out."""
    return DataError(
        f"{path} is damaged: {one_line(reason)}.\n"
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


def unreachable(urls: Iterable[str]) -> str:
    """Why none of the first hosts of these addresses answers; "" where one does. TFDS itself tries for minutes."""
    addresses = {urllib.parse.urlsplit(url).netloc: url for url in urls if "://" in url}
    reasons: dict[str, object] = {}
    for host, url in list(addresses.items())[:HOSTS]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HOST_SECONDS).close()
            return ""
        except urllib.error.HTTPError:  # it has answered
            return ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            reasons[host] = getattr(reason, "strerror", None) or reason
    return f"{' and '.join(reasons)} cannot be reached ({next(iter(reasons.values()))})" if reasons else ""


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


def _stored(folder: Path, config: str | None, version: str | None) -> Path | None:
    """The folder of the newest prepared version that will do, or None.

    Raises:
        DataError: only folders of it that have been copied in part.
    """
    if config is None and folder.is_dir():
        configs = [path for path in folder.iterdir() if list_all_versions(path)]
        folder = configs[0] if len(configs) == 1 else folder
    found = [folder / (config or "") / str(v) for v in list_all_versions(folder / (config or "")) if _fits(v, version)]
    complete = [path for path in found if (path / INFO).is_file()]
    if found and not complete:
        raise damaged(found[-1], f"it has no {INFO}")
    return complete[-1] if complete else None


def _fits(version: tfds.core.Version, wanted: str | None) -> bool:
    return wanted is None or version.match(wanted)


def _from_code(
    dataset: str, root: Path, name: str, config: str | None, version: str | None
) -> tfds.core.DatasetBuilder:
    """A builder that can prepare the set."""
    try:
        return tfds.builder_cls(name)(data_dir=root, config=config, version=version)
    except tfds.core.registered.DatasetNotFoundError:
        here = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.is_dir() else []
        known = {*tfds.list_builders(with_community_datasets=False), *here}
        reason = f"it is neither prepared in {root} nor known to TensorFlow Datasets {tfds.__version__}"
        reason += did_you_mean(name, sorted(known - {name}))
    except (AssertionError, ValueError) as error:
        reason = one_line(str(error))
    prepared_as = sorted(str(path.parent.relative_to(root / name)) for path in (root / name).glob(f"**/{INFO}"))
    there = f"; prepared in {root}: {', '.join(prepared_as)}; ask for one of these" if prepared_as else ""
    raise ValueError(f"data.dataset is {dataset!r}: {reason}{there}")


def _prepare(builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    """Download and prepare, unless another process does meanwhile."""
    try:
        with hold(folder.parent / ".lock", wait=True, what=f"the data set {builder.name}", option="data.data_dir"):
            for left in folder.parent.glob("incomplete.*"):  # by a process that was killed
                delete(left)
            log.info("Preparing data set %s in %s", builder.name, folder)
            with quiet(), contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
    except Exception as error:  # of the network, the disk, a library that the set needs, ...
        reason = one_line(str(error)) or repr(error)
        raise DataError(
            f"the data set {builder.name} could not be prepared in {folder}: {reason}\n"
            f"If it cannot be written there, {OTHER_FOLDER}."
        ) from error
