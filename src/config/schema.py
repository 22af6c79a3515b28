"""JSON schemas of the files in conf/, for editors: which keys there are, what each may be, and what it means.

    make schema         # writes schemas/: config.json, and a file for each group of options

What they say is read from where the checks of a command read it: signatures, `src.config.checks`, conf/targets.txt and
the options themselves, whose comments, and the docstrings of what they name, are shown. They refuse nothing that a run
takes; what only a whole config shows, such as the monitor, is left to the run.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.common.code import ROOT
from src.common.files import replace
from src.common.ranges import Check, schema_of_any
from src.config import signatures, targets
from src.config.checks import (
    CHECKS,
    CONFIG_DIR,
    NAMED_MEMBERS,
    OF_KERAS,
    OF_SEVERAL_TYPES,
    OPTIONAL_GROUPS,
    folders_of_options,
    is_open,
    keys_of_root,
)
from src.config.targets import group_of

FOLDER = ROOT / "schemas"

Schema = dict[str, Any]

REFERENCE = r"\$\{|^\?\?\?$"
ARRAY_OF_TEXT = {"type": "array", "items": {"type": "string"}}
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class Options:
    """What the files in conf/ say: values and comments by key, and what they name as `_target_`."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = defaultdict(list)  # by group and key, or target and argument
        self.comments: dict[str, str] = {}  # by the same
        self.targets: dict[str, dict[str, None]] = defaultdict(dict)  # by group, or key of a member of one
        self.choices: dict[str, list[str]] = defaultdict(list)  # by group
        self.referred_to: set[str] = set()  # first parts of keys
        for path in sorted(CONFIG_DIR.rglob("*.yaml")):
            self._read(path)

    def _read(self, path: Path) -> None:
        text, folder = path.read_text(encoding="utf-8"), path.parent.relative_to(CONFIG_DIR)
        self.referred_to |= set(re.findall(r"\$\{(\w+)", text))
        self.choices[folder.as_posix()].append(path.stem)
        package = "" if re.search("^# @package _global_", text, re.MULTILINE) else ".".join(folder.parts)
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        for part in reversed(package.split(".") if package else []):
            content = {part: content}
        comments = {f"{package}.{key}".strip("."): comment for key, comment in _comments(text)}
        for key, node in targets.nodes(content):
            self._add(node["_target_"], key, node, comments)
            for name in {group_of(key) or key, key}:
                self.targets[name][node["_target_"]] = None
        self._add("trainer", "trainer", content.get("trainer"), comments)
        if not package:
            self._add("", "", content, comments)

    def _add(self, name: str, key: str, node: Any, comments: Mapping[str, str]) -> None:
        for argument, value in node.items() if isinstance(node, dict) else ():
            place = f"{name}.{argument}".strip(".")
            self.values[place].append(value)
            if comment := comments.get(f"{key}.{argument}".strip(".")):
                self.comments.setdefault(place, comment)

    def of(self, name: str) -> list[str]:
        """The keys that are given of a target, or of the trainer."""
        return [key.rpartition(".")[2] for key in self.values if key.rpartition(".")[0] == name]


def schemas() -> dict[str, Schema]:
    """All, by the names of their files without `.json`."""
    options = Options()
    groups = [group for group in targets.GROUPS if tuple(group.split(".")) not in NAMED_MEMBERS]
    definitions: dict[str, Schema] = {group: _node(group, list(options.targets[group]), options) for group in groups}
    for path in NAMED_MEMBERS:
        definitions[".".join(path)] = _members(path, options)
    for name in {name: None for group in targets.GROUPS for name in options.targets[group]}:
        definitions[name] = _target(name, options)
    known = options.of("trainer")
    takers = ("src.training.trainer.Trainer", "src.training.learner.Supervised")
    checks = {name: check for taker in takers for name, check in signatures.checks(taker).items()}
    checks |= {key.removeprefix("trainer."): check for key, check in CHECKS.items() if key.startswith("trainer.")}
    described = _documented(takers[0])
    trainer = {name: _value(f"trainer.{name}", checks.get(name), options, described.get(name)) for name in known}
    definitions["trainer"] = _mapping(trainer)
    definitions["defaults"] = _defaults(options)
    # What only others say, or an object, which may be the value of any argument.
    text = {"type": "string", "pattern": REFERENCE}
    definitions["open"] = {"anyOf": [text, {"type": "object", "required": ["_target_"]}]}
    whole = {key: _value(key, CHECKS.get(key), options) for key in keys_of_root()}
    whole |= {key: {} for key in options.referred_to.intersection(options.values) - {*whole}}
    whole |= {group: {} for group in folders_of_options() - set(OPTIONAL_GROUPS)}
    whole |= {group: _reference(group) for group in ("trainer", *groups, "callback", "metric") if "." not in group}
    hydra = {group.partition(".")[2]: _reference(group) for group in groups if group.startswith("hydra.")}
    whole |= {"hydra": {"type": "object", "properties": hydra}, "defaults": _reference("defaults")}
    found: dict[str, Schema] = {
        "config": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": dict(sorted(definitions.items())),
            **_mapping(dict(sorted(whole.items()))),
        }
    }
    for group in ("trainer", *(group for group in targets.GROUPS if group != "data.transforms")):
        own = {"$ref": f"config.json#/definitions/{group}"}
        found[group] = {"if": {"required": [group]}, "then": {"$ref": "config.json"}, "else": own}
    return found


def _target(name: str, options: Options) -> Schema:
    """Of the arguments of what a `_target_` names."""
    taken, known = signatures.names(name), options.of(name)
    checks = {**(OF_KERAS if signatures.of_keras(name) else {}), **signatures.checks(name)}
    described = _documented(name)
    arguments = {
        argument: _value(f"{name}.{argument}", checks.get(argument), options, described.get(argument))
        for argument in [*known, *(argument for argument in taken or () if argument not in known)]
    }
    own: Schema = {key: {} for key in targets.OWN_KEYS} | {"defaults": _reference("defaults")}
    return _mapping({**arguments, **own}, open_ended=taken is None)


def _value(key: str, check: Check | None, options: Options, described: str | None = None) -> Schema:
    """Of a value at the top, of the trainer, or of an argument of a target."""
    values = options.values.get(key, [])
    written = [options.comments.get(key) or described, f"It must be {check.allowed}." if check and check.schema else ""]
    schema: Schema = {"description": "\n\n".join(filter(None, written))} if any(written) else {}
    group = next((group for group in targets.GROUPS if group == f"data.{key.rpartition('.')[2]}"), None)
    if group and key.startswith("src.data."):
        return schema | {"allOf": [_reference(group)]}
    kinds: set[str] = {KINDS[type(value)] for value in values if value is not None and not is_open(value)}
    kind: Mapping[str, Any]
    if check and check.schema:
        kind = check.schema
    elif kinds and key.rpartition(".")[2] not in {name.rpartition(".")[2] for name in OF_SEVERAL_TYPES}:
        kind = {"type": sorted(kinds | ({"null"} if None in values or "object" in kinds else set()))}
    else:
        return schema
    null = [{"type": "null"}] if key.startswith(("keras.optimizers.", "src.optimizers.")) else []
    defaults = [value for value in values if not isinstance(value, dict | list) and not is_open(value)]
    default = {"default": defaults[0]} if defaults else {}
    return {**schema, **default, **schema_of_any([kind, *null, _reference("open")])}


def _node(group: str, partial: Iterable[str], options: Options) -> Schema:
    """Of a mapping that names its object, or changes arguments of one of these that another file names."""
    known = list(options.targets[group])
    listed = targets.packages(group, of_user=False)
    packages = "|".join(re.escape(name).replace(r"keras\.", r"keras\.(src\.)?") for name in listed)
    any_listed = {"type": "string", "pattern": rf"^({packages})(\.|$)"}
    named = [
        {"if": {"required": ["_target_"], "properties": {"_target_": {"const": name}}}, "then": _reference(name)}
        for name in known
    ]
    changed = {"anyOf": [_reference(name) for name in partial]} if partial else {}
    return {
        "type": ["object", "null", "string"],
        "pattern": REFERENCE,
        "properties": {"_target_": {"anyOf": [{"enum": known}, any_listed]}},
        "allOf": [*named, {"if": {"required": ["_target_"]}, "else": changed}],
    }


def _members(path: tuple[str, ...], options: Options) -> Schema:
    """Of a mapping of objects by name, of which those that no option has must say what they are."""
    group = ".".join(path)
    names = [key.removeprefix(f"{group}.") for key in options.targets if key.startswith(f"{group}.")]
    members = {name: _node(group, options.targets[f"{group}.{name}"], options) for name in names}
    any_other = _node(group, (), options) | {"required": ["_target_"]}
    null = {name: options.comments.get(f"{group}.{name}") for name in names}
    described = {name: {"description": null[name]} if null[name] else {} for name in names}
    return {
        "type": ["object", "null", "string"],
        "pattern": REFERENCE,
        "properties": {name: described[name] | members[name] for name in names} | {"defaults": _reference("defaults")},
        "additionalProperties": any_other,
    }


def _defaults(options: Options) -> Schema:
    groups = {group: {"enum": [*choices, None]} for group, choices in options.choices.items() if group != "."}
    prefixed = {
        f"^(optional |override )*/?{re.escape(group)}$": {"anyOf": [choice, ARRAY_OF_TEXT, _reference("open")]}
        for group, choice in groups.items()
    }
    placed: Schema = {"@": {}}
    item = {"type": ["string", "object"], "patternProperties": prefixed | placed, "additionalProperties": False}
    return {"type": "array", "items": item}


def _mapping(properties: Schema, *, open_ended: bool = False) -> Schema:
    return {"properties": properties, **({} if open_ended else {"additionalProperties": False})}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _comments(text: str) -> list[tuple[str, str]]:
    """What stands behind each `key: value # ...`, by dotted key."""
    found, above = [], [(-1, "")]
    for line in text.splitlines():
        if given := re.fullmatch(r"( *)([\w.]+):(?: .*?)??(?: # (.+))?", line):
            while above[-1][0] >= len(given[1]):
                above.pop()
            above.append((len(given[1]), f"{above[-1][1]}.{given[2]}".strip(".")))
            if given[3]:
                found.append((above[-1][1], given[3]))
    return found


def _documented(name: str) -> dict[str, str]:
    """The first sentence that a docstring says of each argument."""
    found = signatures.definition(name)
    if not found:
        return {}
    bodies = [found[1], *(part for part in found[1].body if getattr(part, "name", "") == "__init__")]
    described: dict[str, str] = {}
    for body in bodies:
        text = ast.get_docstring(body) or ""  # type: ignore[arg-type]
        for section in re.findall(r"(?ms)^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text):
            for argument, words in re.findall(r"(?ms)^(\w+)(?: \([^)]*\))?: (.*?)(?=^\S|\Z)", textwrap.dedent(section)):
                described[argument] = " ".join(words.split()).partition(". ")[0]
    return described


def as_text(schema: Schema) -> str:
    """A line for each argument, so that changes can be read."""
    return re.sub(r"\n {5,}|\n {4}(?=[}\]])", " ", json.dumps(schema, indent=1)) + "\n"


def main() -> None:
    for name, schema in schemas().items():
        replace(FOLDER / f"{name}.json", as_text(schema))
    print(f"{FOLDER.relative_to(ROOT)}/ is written")


if __name__ == "__main__":
    main()
