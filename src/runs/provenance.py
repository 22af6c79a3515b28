"""Where a result comes from: the code that computes, the files that it reads, and the data.

recorded = fingerprints(config)         # {"version": 1, "code": {"src": "1f0c...", "src.models.cnn": ...}, ...}
changes(recorded, config)               # ["code mine.models"], where that has been edited since
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common import code
from src.common.code import OF_MANY, PROJECT, ROOT, Part, digest, find, reach
from src.common.files import walk
from src.common.text import printable
from src.config.moved import new_name
from src.runs import file_access

VERSION = 1

# Where the code that every run goes through begins; what these import belongs to it.
COMPUTING = ("src.training.trainer", "src.build")
# What stores, shows or starts, and computes nothing.
WATCHING = ("checkpoint", "export", "hparams", "histograms", "images", "profile", "progress", "record", "summaries")
NOT_COMPUTING = (
    *("src.config", "src.runs", "src.training.checkpoints", "src.training.manifest", "src.training.side_effects"),
    *(f"src.common.{name}" for name in ("errors", "files", "machine", "pictures", "ranges", "spelling")),
    *(f"src.callbacks.{name}" for name in WATCHING),
    # Where these lay, of older code.
    *("src.checks", "src.checkpoints", "src.errors", "src.files", "src.hydra_settings", "src.keys", "src.machine"),
    *("src.manifest", "src.origins", "src.pictures", "src.preflight", "src.ranges", "src.signatures", "src.spelling"),
    *("src.step_graph", "src.targets", "src.training.step_graph"),
)
# Where options are, the project's and the user's.
OPTIONS = ("src.models", "src.data", "src.callbacks", *OF_MANY)

# Options that compute otherwise than before where they are given, though the rest computes the same: their versions.
OTHERWISE = {"trainer.gradient_accumulation_steps": "2", "data.image_size": "2"}

SAME_CODE = Path(__file__).with_name("same_code.txt")
ABSENT = "-"
WRITTEN = "written"  # by the run itself, so a change of it says nothing
# A larger file is known by its size and time.
MOST_READ = 64 * 2**20
# More files than these, opened by a run's own code, are known by their folders.
MOST_FILES = 100
# Which reads of a folder its images, and this file; what their names must end in is src.data.images.files' SUFFIXES.
IMAGE_FOLDER, CLASSES_FILE = "src.data.images.folders.image_folder", "classes.txt"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# What file managers leave behind, and no reader takes for data.
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
MOST_NAMED = 2  # files that have changed
# A key that ends so, and what lies below it, may name a folder.
_FOLDER_KEY = re.compile(r"(path|dir|directory|folder|directorie)s?(\.|$)", re.IGNORECASE)
# What TensorFlow and HDF5 open out of Python's sight.
_UNSEEN = re.compile(
    r"^(read_file|gfile|GFile|load_weights|list_files|H5File|\w*(Record|Line|Csv)Dataset|\w+_dataset_from_directory)$"
)


def fingerprints(config: dict[str, Any]) -> dict[str, Any]:
    """What besides the config decides a result, before the run has been built.

    Args:
        config: a resolved config as plain dicts and lists.

    Returns:
        `version`: of this rule. `code`: a hash of the syntax, without comments and docstrings, of each module that
        the run reaches, as far as it is of no installed package; all that every run goes through is one, `src`.
        `files`: of each file that such a module or the config names. `data`: the data option's `dataset` (name and
        version), and for a `path` in it a hash of the names, sizes and times of the files that it reads, how many
        these are, when (in ns) the last of them changed, and as `path_of_all` the hash with all others, if it differs.
    """
    parts = _parts(_targets(config))
    data = config.get("data") or {}
    found = {key: data[key] for key in ("dataset",) if data.get(key) is not None}
    if isinstance(data.get("path"), str):
        found |= _data_path(config)
    files = {*_named_in_code(parts), *_named_in_config(config)}
    return {
        "version": VERSION,
        "code": {PROJECT: _machinery()[1], **_otherwise(config), **_hashes(parts)},
        "data": found,
        "files": {shown: hashed for shown in sorted(map(_shown, files)) if (hashed := _file_hash(shown))},
    }


def completed(recorded: Mapping[str, Any], config: dict[str, Any], *, directory: Path) -> dict[str, Any]:
    """The fingerprints of a run that has been built, with the modules and files that only this shows.

    Args:
        recorded: those that it began with.
        directory: the run's own.
    """
    parts, files = dict(_parts(_targets(config))), []
    for name, path in file_access.modules().items():
        if (module := find(name)) and module.path == path:
            parts |= module.parts(None)
        else:  # an import of this name would not find it
            files.append(path)
    of_modules = {part.module.path for part in (*parts.values(), *_machinery()[0].values())}
    known = [_absolute(value) for key, value in _strings(config) if _FOLDER_KEY.search(key)] + [_absolute(directory)]
    files += [path for path in file_access.read() - of_modules if not any(_is_below(path, folder) for folder in known)]
    # What lies in a folder that has the run's directory below it changes by the run itself.
    files = [path for path in files if not _is_below(_absolute(directory), path.removesuffix("*"))]
    if len(files) > MOST_FILES:
        files = sorted({os.path.join(os.path.dirname(path), "") for path in files})
    hashes = recorded["files"] | {path: hashed for path in map(_shown, files) if (hashed := _file_hash(path))}
    for path in map(_shown, file_access.written()):
        hashes |= {file: WRITTEN for file in hashes if file == path or (file.endswith("/") and path.startswith(file))}
    return {**recorded, "code": {**recorded["code"], **_hashes(parts)}, "files": hashes}


def unfollowed(config: dict[str, Any]) -> list[str]:
    """What a run's own code does that no fingerprint can follow, a clause each."""
    found = file_access.unfollowed()
    for key, part in _parts(_targets(config)).items():
        unseen = sorted(filter(_UNSEEN.match, part.attributes))
        if unseen and is_users(part.module.name) and not list(_named_in_code({key: part})):
            found.append(f"{key} reads files by {', '.join(unseen)}")
    return found


def is_users(module: str) -> bool:
    """Whether a module is the user's, and none that came with the project."""
    if not _within(module, PROJECT):
        return not _within(module, "hydra_plugins")
    of_options = any(_within(module, package) for package in OPTIONS)
    known = any(_within(key, module) for key in _same_code())
    return of_options and not known and not any(_within(module, other) for other in NOT_COMPUTING)


def changes(recorded: Mapping[str, Any], config: dict[str, Any], *, now: dict[str, Any] | None = None) -> list[str]:
    """What has changed since a run's fingerprints were made, as `code mine.models` or `file means.json`.

    Args:
        now: `fingerprints(config)`, where they have been taken.
    """
    now = copy.deepcopy(now) if now else fingerprints(config)
    if not recorded.get("code"):
        return ["code, which its record does not tell"]
    if "version" not in recorded:
        return _changes_since_before(recorded["code"], now["code"], config) + _data_changes(recorded, now, config)
    more = [module.parts(None) for name in recorded["code"].keys() - now["code"].keys() if (module := find(name))]
    for parts in more:  # which only building the run showed
        now["code"] |= _hashes({**_parts(_targets(config)), **parts})
    files = recorded.get("files", {})
    now["files"] |= {path: hashed for path in files if (hashed := _file_hash(path))}
    return differences(recorded, now) + _data_changes(recorded, now, config)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Which code and files differ between two fingerprints of this version, the second being the later.

    A file that is only in the second has not been read by the run of the first, and may be what that has written.
    """
    ours, theirs = a.get("code", {}), b.get("code", {})
    pairs = {key: (ours.get(key, ABSENT), theirs.get(key, ABSENT)) for key in sorted({*ours, *theirs})}
    found = [_code_named(key, *pair) for key, pair in pairs.items() if not _computes_the_same(key, *pair)]
    ours, theirs = a.get("files", {}), b.get("files", {})
    pairs = {key: (ours[key], theirs.get(key, ABSENT)) for key in sorted(ours)}
    return found + [
        f"file {key}{_how(*pair)}" for key, pair in pairs.items() if pair[0] != pair[1] and WRITTEN not in pair
    ]


def _changes_since_before(recorded: dict[str, str], now: dict[str, str], config: dict[str, Any]) -> list[str]:
    """As `changes`, of a record without a version: of files, by path in the project and elsewhere by bare name."""
    machinery, parts = _machinery()[0], _parts(_targets(config))
    there: dict[str, set[str]] = {}
    for part in (*machinery.values(), *parts.values()):
        there.setdefault(_shown_before(part.module.path), set()).add(digest(part.module.content))
    for path in _named_in_code(parts):
        there.setdefault(_shown_before(path), set()).add(digest(Path(path).read_bytes()))
    first = {key: versions[0][0] for key, versions in _same_code().items()}

    def counts(key: str) -> bool:
        """Of the project, what is reached today, and files that have gone or moved, as far as the list has them."""
        return key in there or not _is_of_project(key) or (key in first and not (ROOT / key).exists())

    changed = [
        f"code {key}{'' if key in there else _how(hashed, ABSENT)}"
        for key, hashed in sorted(recorded.items())
        if hashed not in there.get(key, ()) and hashed != first.get(key) and counts(key)
    ]
    if changed:
        return changed
    for key, new in now.items():
        if key in OTHERWISE:
            changed.append(_code_named(key, ABSENT, new))
            continue
        of = machinery.values() if key == PROJECT else [parts[key]]
        as_now = all(recorded.get(_shown_before(part.module.path)) == digest(part.module.content) for part in of)
        old = first.get(key, ABSENT)
        if _within(key, PROJECT) and not (as_now or _computes_the_same(key, old, new)):
            changed.append(_code_named(key, old, new))
    return changed


def _is_of_project(shown: str) -> bool:
    return shown.startswith(f"{PROJECT}/")


def _shown_before(path: str) -> str:
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else Path(path).name


def _code_named(key: str, old: str, new: str) -> str:
    if key in OTHERWISE:
        return f"what {key} does"
    return "the project's own code" if key == PROJECT else f"code {key}{_how(old, new)}"


def _how(old: str, new: str) -> str:
    return " (not there any more)" if new == ABSENT else " (not there before)" if old == ABSENT else ""


def comparable_data(prints: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The `data` of fingerprints, so that equal files have equal hashes where older ones are of all that lie there."""
    found = [values.get("data", {}) for values in prints]
    read = {str(data["path_of_all"]): data.get("path") for data in found if "path_of_all" in data}
    named = [{key: value for key, value in data.items() if key in ("dataset", "path")} for data in found]
    return [{key: read.get(str(value), value) for key, value in data.items()} for data in named]


def _data_changes(recorded: Mapping[str, Any], now: dict[str, Any], config: dict[str, Any]) -> list[str]:
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
    more = f" and {len(later) - MOST_NAMED} more" if len(later) > MOST_NAMED else ""
    named = f", new or changed: {', '.join(map(printable, later[:MOST_NAMED]))}{more}" if later else ""
    return f"{told}: {then['files']} then, {now['files']} now{named}"


def _data_path(config: dict[str, Any]) -> dict[str, Any]:
    folder = Path(config["data"]["path"]).expanduser()
    read, of_all = _read_of(folder, config), _listing(folder)
    found = {
        "path": _listing_hash(read),
        "files": len(read),
        "changed_ns": max((status.st_ctime_ns for _, status in read), default=0),
    }
    return found if found["path"] == of_all else {**found, "path_of_all": of_all}


def _read_of(folder: Path, config: dict[str, Any]) -> list[tuple[str, os.stat_result]]:
    """The files of a data option's `path` that count, with their status."""
    of_images = new_name(str(config["data"].get("_target_"))) == IMAGE_FOLDER
    return [(shown, status) for shown, status in _files_below(folder) if _is_read(shown, of_images=of_images)]


def _is_read(shown: str, *, of_images: bool) -> bool:
    if not of_images:
        return not LITTER.fullmatch(os.path.basename(shown))
    is_hidden = shown != "." and any(part.startswith(".") for part in shown.split(os.sep))
    return not is_hidden and (os.path.splitext(shown)[1].lower() in IMAGE_SUFFIXES or shown in (".", CLASSES_FILE))


# Code


@functools.cache
def _machinery() -> tuple[dict[str, Part], str]:
    parts = reach(COMPUTING, without=NOT_COMPUTING)
    return parts, digest("\n".join(f"{key} {part.hash()}" for key, part in sorted(parts.items())).encode())


def _otherwise(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for key, version in OTHERWISE.items():
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[key] = version
    return found


def _targets(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(new_name(name) for key, name in _strings(value) if key.endswith("_target_")))


@functools.cache
def _parts(targets: tuple[str, ...]) -> dict[str, Part]:
    """What a run reaches of code, beside what every run goes through."""
    machinery, _ = _machinery()
    return {key: part for key, part in reach(targets, without=NOT_COMPUTING).items() if key not in machinery}


def _hashes(parts: Mapping[str, Part]) -> dict[str, str]:
    looks = any(part.module.looks_at_docstrings for part in parts.values())  # perhaps at those of another module
    return {key: part.hash(docstrings=looks and is_users(part.module.name)) for key, part in sorted(parts.items())}


def forget() -> None:
    """Read all code anew, as another process would."""
    code.forget()
    for cached in (_machinery, _parts, _same_code):
        cached.cache_clear()


def look_again() -> None:
    """In a forked child: read anew what has been changed since, but for what was imported before the fork."""
    if code.look_again():
        for cached in (_machinery, _parts):
            cached.cache_clear()


@functools.cache
def _same_code() -> dict[str, list[list[str]]]:
    """Versions of the project's code that have been shown to compute the same, by key."""
    found: dict[str, list[list[str]]] = {}
    for line in SAME_CODE.read_text().splitlines() if SAME_CODE.exists() else []:
        if words := line.partition("#")[0].split():
            found.setdefault(words[0], []).append(words[1:])
    return found


def representative(key: str, hashed: str) -> str:
    """The first of the versions that compute the same as one."""
    return next((hashes[0] for hashes in _same_code().get(key, []) if hashed in hashes), hashed)


def _computes_the_same(key: str, old: str, new: str) -> bool:
    return old == new or any(old in hashes and new in hashes for hashes in _same_code().get(key, []))


# Files


def _named_in_code(parts: Mapping[str, Part]) -> Iterator[str]:
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


def _named_in_config(config: dict[str, Any]) -> Iterator[str]:
    own_place = isinstance((config.get("data") or {}).get("path"), str)
    for key, value in _strings(config):
        if (key == "data.path" and own_place) or key.endswith("_target_") or not value or "\0" in value:
            continue
        path = _absolute(value)
        if os.path.isfile(path):
            yield path
        elif os.path.isdir(path) and _FOLDER_KEY.search(key):
            yield os.path.join(path, "")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, key)


def _is_below(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _shown(path: str) -> str:
    """A file's name in a record: below the project or the working directory relative to it, else absolute.

    `folder/` is all that a folder holds, `folder/*` the names in it.
    """
    end = "/" if path.endswith("/") else ""
    path = os.path.normpath(path)
    if Path(path).is_relative_to(ROOT / PROJECT):
        return f"{Path(path).relative_to(ROOT)}{end}"
    here = os.path.relpath(path)
    return f"{path if here.startswith('..') or _is_of_project(here) else here}{end}"


def _file_hash(shown: str) -> str | None:
    """Of a file's content, or of what a folder holds; None where nothing is. Takes what `_shown` gives."""
    path = Path(ROOT if _is_of_project(shown) else "", shown)
    try:
        if shown.endswith("/"):
            return _listing(path) if path.is_dir() else None
        if path.name == "*":
            return digest(os.fsencode("\n".join(sorted(set(os.listdir(path.parent)) - {"__pycache__"}))))
        status = path.stat()
        return _content_hash(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
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


def _within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")
