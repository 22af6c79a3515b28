"""The files that a run reads: those that its code and its config name, of other runs too, and the folder of its data.

data_print(config)              # {"path": "1f0c...", "files": 400, "changed_ns": ...}
file_hash("mine/means.json")    # "9a2b..."
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common import code
from src.common.code import PROJECT, ROOT, Part, digest
from src.common.errors import ConfigError
from src.common.files import walk
from src.common.text import first_of, printable
from src.config.identity import identity_config
from src.config.moved import new_name
from src.config.origins import flat
from src.runs.recorded_config import CONFIG, load_config
from src.training.manifest import BEST, CheckpointError, manifest_path, newest_good

# A larger file is known by its size and time.
MOST_READ = 64 * 2**20
# Which reads of a folder its images, and this file; what their names must end in is src.data.images.files' SUFFIXES.
IMAGE_FOLDER, CLASSES_FILE = "src.data.images.folders.image_folder", "classes.txt"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# What file managers leave behind, and no reader takes for data.
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
MOST_NAMED = 2  # files that have changed
NEWEST = "ckpt-*"  # in a record, the newest good checkpoint of a folder
# A key that ends so, and what lies below it, may name a folder.
_FOLDER_KEY = re.compile(r"(path|dir|directory|folder|directorie)s?(\.|$)", re.IGNORECASE)


def data_print(config: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of a config's data; see `src.runs.provenance.fingerprints`."""
    data = config.get("data") or {}
    found = {key: data[key] for key in ("dataset",) if data.get(key) is not None}
    if not isinstance(data.get("path"), str):
        return found
    folder = Path(data["path"]).expanduser()
    read, of_all = _read_of(folder, config), _listing(folder)
    found |= {"path": _listing_hash(read), "files": len(read)}
    found["changed_ns"] = max((status.st_ctime_ns for _, status in read), default=0)
    return found if found["path"] == of_all else {**found, "path_of_all": of_all}


def comparable_data(prints: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The `data` of fingerprints, so that equal files have equal hashes where older ones are of all that lie there."""
    found = [values.get("data", {}) for values in prints]
    read = {str(data["path_of_all"]): data.get("path") for data in found if "path_of_all" in data}
    named = [{key: value for key, value in data.items() if key in ("dataset", "path")} for data in found]
    return [{key: read.get(str(value), value) for key, value in data.items()} for data in named]


def data_changes(recorded: Mapping[str, Any], now: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """What has changed of a run's data, as `data dataset`; of a folder, how many files there were, and new ones."""
    old, new = comparable_data([recorded, now])
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    then = recorded.get("data", {})
    return [_files_of(config, then, now["data"]) if key == "path" in new else f"data {key}" for key in changed]


def _files_of(config: dict[str, Any], then: dict[str, Any], now: dict[str, Any]) -> str:
    path = config["data"]["path"]
    folder = Path(path).expanduser()
    if not folder.exists():
        return f"data.path={path}, where nothing is any more"
    told = f"the files of data.path={path} (names, sizes or times)"
    if "files" not in then:  # as a run of before
        return told
    later = [shown for shown, status in _read_of(folder, config) if status.st_ctime_ns > then["changed_ns"]]
    named = f", new or changed: {first_of([*map(printable, later)], MOST_NAMED)}" if later else ""
    return f"{told}: {then['files']} then, {now['files']} now{named}"


def _read_of(folder: Path, config: dict[str, Any]) -> list[tuple[str, os.stat_result]]:
    """The files of a data option's `path` that count, with their status."""
    of_images = new_name(str(config["data"].get("_target_"))) == IMAGE_FOLDER
    return [(shown, status) for shown, status in _files_below(folder) if _is_read(shown, of_images=of_images)]


def _is_read(shown: str, *, of_images: bool) -> bool:
    if not of_images:
        return not LITTER.fullmatch(os.path.basename(shown))
    is_hidden = shown != "." and any(part.startswith(".") for part in shown.split(os.sep))
    return not is_hidden and (os.path.splitext(shown)[1].lower() in IMAGE_SUFFIXES or shown in (".", CLASSES_FILE))


def named_in_code(parts: Mapping[str, Part]) -> Iterator[str]:
    """Files beside modules, and in the working directory, whose names stand in the code."""
    for part in parts.values():
        above = part.module.name.count(".") + part.module.is_package
        folders = [*Path(part.module.path).parents][: above + 1]
        names = {
            name
            for text in part.strings
            if 0 < len(text) < 256 and "\n" not in text and "\0" not in text
            for name in (text, text.lstrip("/"))
            if name.strip("./")
        }
        below: list[Path] = [*folders, Path.cwd()]
        for folder in below:  # grows: a folder named in the code may hold a file named in it
            for name in names:
                path = os.path.join(folder, os.path.expanduser(name))
                if os.path.isfile(path):
                    yield path
                elif len(below) < 50 and not os.path.isabs(name) and os.path.isdir(path) and Path(path) not in below:
                    below.append(Path(path))


def named_in_config(config: dict[str, Any]) -> Iterator[str]:
    """Files and folders whose names are values of the config; of a run, as a teacher is one, what is taken from it."""
    own_place = isinstance((config.get("data") or {}).get("path"), str)
    for key, value in strings_in(config):
        if (key == "data.path" and own_place) or key.endswith("_target_") or not value or "\0" in value:
            continue
        path = _absolute(value)
        if os.path.isfile(path):
            yield path
        elif os.path.isdir(path) and _FOLDER_KEY.search(key):
            yield os.path.join(path, "")
        elif os.path.isfile(os.path.join(path, CONFIG)):
            yield from _read_of_run(path, config.get("data"))


def _read_of_run(directory: str, data: Any) -> Iterator[str]:
    """The best weights of a run, and what its model takes from data of its own, such as a vocabulary.

    Args:
        data: of the run that reads it, whose own fingerprint has these.
    """
    yield os.path.join(directory, "checkpoints", BEST, NEWEST)
    try:
        config = identity_config(load_config(Path(directory)))
    except ConfigError:  # building says it
        return
    place = (config.get("data") or {}).get("path")
    if (config.get("model") or {}).get("_partial_") and isinstance(place, str) and config["data"] != data:
        path = _absolute(place)
        yield path if os.path.isfile(path) else os.path.join(path, "")


def strings_in(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts of a config, by dotted key."""
    return ((key, value) for key, value in flat(config) if isinstance(value, str))


def folders_named(config: dict[str, Any]) -> list[str]:
    """The values of the keys that may name a folder, as absolute paths."""
    return [_absolute(value) for key, value in strings_in(config) if _FOLDER_KEY.search(key)]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def is_of_project(shown: str) -> bool:
    return shown.startswith(f"{PROJECT}/")


def shown_path(path: str) -> str:
    """A file's name in a record: below the project or the working directory relative to it, else absolute.

    `folder/` is all that a folder holds, `folder/*` the names in it, `folder/ckpt-*` its newest good checkpoint.
    """
    end = "/" if path.endswith("/") else ""
    path = os.path.normpath(path)
    if Path(path).is_relative_to(ROOT / PROJECT):
        return f"{Path(path).relative_to(ROOT)}{end}"
    here = os.path.relpath(path)
    return f"{path if here.startswith('..') or is_of_project(here) else here}{end}"


def file_hashes(paths: Iterable[str]) -> dict[str, str]:
    """The hash of each file that is there, by its name in a record."""
    return {shown: hashed for shown in sorted(map(shown_path, paths)) if (hashed := file_hash(shown))}


def file_hash(shown: str) -> str | None:
    """Of a file's content, or of what a folder holds; None where nothing is. Takes what `shown_path` gives."""
    path = Path(ROOT if is_of_project(shown) else "", shown)
    try:
        if shown.endswith("/"):
            return _listing(path) if path.is_dir() else None
        if path.name == "*":
            return digest(os.fsencode("\n".join(sorted(set(os.listdir(path.parent)) - {"__pycache__"}))))
        if path.name == NEWEST and (newest := newest_good(path.parent)):
            path = manifest_path(newest)  # which has the checksums of all
        status = path.stat()
        return _content_hash(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
    except (OSError, CheckpointError):
        return None


@functools.lru_cache(maxsize=4096)
def _content_hash(path: str, size: int, mtime_ns: int, inode: int) -> str:
    if size > MOST_READ:
        return digest(f"{size} {mtime_ns}".encode())
    content = Path(path).read_bytes()
    if path.endswith(".py"):
        return code.Module("", path, content).parts(None)[""].hash()
    return digest(content)


def _listing(path: Path) -> str:
    """A hash of the names, sizes and times of a folder's files, or of a file's."""
    return _listing_hash(_files_below(path))


def _files_below(path: Path) -> list[tuple[str, os.stat_result]]:
    """The files of a folder by their names in it, or a file as `.`, sorted by their paths, each with its status."""
    below = (Path(parent, name) for parent, _, names in walk(path) for name in names)
    files = sorted(file for file in below if file.is_file()) if path.is_dir() else [path]
    return [(os.path.relpath(file, path), file.stat()) for file in files if file.exists()]


def _listing_hash(files: Sequence[tuple[str, os.stat_result]]) -> str:
    lines = (f"{shown} {status.st_size} {status.st_mtime_ns}" for shown, status in files)
    return digest(os.fsencode("\n".join(lines)))
