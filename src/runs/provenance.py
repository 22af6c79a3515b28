"""Where a result comes from: the code that computes, the files that it reads, and the data.

recorded = fingerprints(config)         # {"version": 1, "code": {"src": "1f0c...", "src.models.cnn": ...}, ...}
changes(recorded, config)               # ["code mine.models"], where that has been edited since
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.common import code
from src.common.code import OF_MANY, PROJECT, ROOT, Part, digest, find, reach
from src.config.moved import new_name
from src.config.origins import at
from src.runs import file_access
from src.runs.input_files import (
    data_changes,
    data_print,
    file_hash,
    file_hashes,
    folders_named,
    is_of_project,
    named_in_code,
    named_in_config,
    shown_path,
    strings_in,
)

FINGERPRINT_VERSION = 1

# Where the code that every run goes through begins; what these import belongs to it.
COMPUTING = ("src.training.trainer", "src.build")
# What stores, shows or starts, and computes nothing.
WATCHING = (
    "checkpoint",
    "csv",
    "examples",
    "export",
    "hparams",
    "histograms",
    "images",
    "profile",
    "progress",
    "record",
    "summaries",
    "tracker",
)
NOT_COMPUTING = (
    *("src.config", "src.runs", "src.training.checkpoints", "src.training.manifest", "src.training.side_effects"),
    *(f"src.common.{name}" for name in ("columns", "errors", "files", "machine", "pictures", "ranges", "spelling")),
    "src.common.extras",
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
# More files than these, opened by a run's own code, are known by their folders.
MOST_FILES = 100
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
    otherwise = {key: version for key, version in OTHERWISE.items() if at(config, key.split(".")) not in (None, ...)}
    return {
        "version": FINGERPRINT_VERSION,
        "code": {PROJECT: _machinery()[1], **otherwise, **_hashes(parts)},
        "data": data_print(config),
        "files": file_hashes([*named_in_code(parts), *named_in_config(config)]),
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
    run = os.path.abspath(directory)
    known = [*folders_named(config), run]
    files += [path for path in file_access.read() - of_modules if not any(_is_below(path, folder) for folder in known)]
    # What lies in a folder that has the run's directory below it changes by the run itself.
    files = [path for path in files if not _is_below(run, path.removesuffix("*"))]
    if len(files) > MOST_FILES:
        files = sorted({os.path.join(os.path.dirname(path), "") for path in files})
    hashes = recorded["files"] | file_hashes(files)
    for path in map(shown_path, file_access.written()):
        hashes |= {file: WRITTEN for file in hashes if file == path or (file.endswith("/") and path.startswith(file))}
    return {**recorded, "code": {**recorded["code"], **_hashes(parts)}, "files": hashes}


def unfollowed(config: dict[str, Any]) -> list[str]:
    """What a run's own code does that no fingerprint can follow, a clause each."""
    found = file_access.unfollowed()
    for key, part in _parts(_targets(config)).items():
        unseen = sorted(filter(_UNSEEN.match, part.attributes))
        if unseen and is_users(part.module.name) and not list(named_in_code({key: part})):
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
        return _changes_since_before(recorded["code"], now["code"], config) + data_changes(recorded, now, config)
    more = [module.parts(None) for name in recorded["code"].keys() - now["code"].keys() if (module := find(name))]
    for parts in more:  # which only building the run showed
        now["code"] |= _hashes({**_parts(_targets(config)), **parts})
    now["files"] |= {path: hashed for path in recorded.get("files", {}) if (hashed := file_hash(path))}
    return differences(recorded, now) + data_changes(recorded, now, config)


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
    for path in named_in_code(parts):
        there.setdefault(_shown_before(path), set()).add(digest(Path(path).read_bytes()))
    first = {key: versions[0][0] for key, versions in _same_code().items()}

    def counts(key: str) -> bool:
        """Of the project, what is reached today, and files that have gone or moved, as far as the list has them."""
        return key in there or not is_of_project(key) or (key in first and not (ROOT / key).exists())

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


def _shown_before(path: str) -> str:
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else Path(path).name


def _code_named(key: str, old: str, new: str) -> str:
    if key in OTHERWISE:
        return f"what {key} does"
    return "the project's own code" if key == PROJECT else f"code {key}{_how(old, new)}"


def _how(old: str, new: str) -> str:
    return " (not there any more)" if new == ABSENT else " (not there before)" if old == ABSENT else ""


# Code


@functools.cache
def _machinery() -> tuple[dict[str, Part], str]:
    parts = reach(COMPUTING, without=NOT_COMPUTING)
    return parts, digest("\n".join(f"{key} {part.hash()}" for key, part in sorted(parts.items())).encode())


def _targets(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(new_name(name) for key, name in strings_in(value) if key.endswith("_target_")))


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


def _within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _is_below(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)
