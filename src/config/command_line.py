"""The words of a command: Hydra's flags and overrides, and what is wrong with one that is neither.

parse_command(["optimizer=adam", "--multirun"]).overrides      # ["optimizer=adam"]
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from src.common.errors import ConfigError
from src.common.spelling import did_you_mean

# What may stand before an override's `=`.
KEY = re.compile(r"\+{0,2}[A-Za-z_][\w./@]*")

# Hydra's flags and their short forms: those that need nothing after them, and those with a value.
FLAGS = {
    "--help": "-h",
    "--hydra-help": "",
    "--version": "",
    "--run": "-r",
    "--multirun": "-m",
    "--resolve": "",
    "--shell-completion": "-sc",
}
FLAGS_WITH_A_VALUE = {
    "--cfg": "-c",
    "--package": "-p",
    "--config-path": "-cp",
    "--config-name": "-cn",
    "--config-dir": "-cd",
    "--experimental-rerun": "",
    "--info": "-i",
}


def parse_command(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides of a command, in any order.

    Raises:
        ConfigError: a flag that there is not, as in `--epochs 5`, or one without its value.
    """
    parser = argparse.ArgumentParser(add_help=False)
    for flag, short in FLAGS.items():
        parser.add_argument(flag, *filter(None, [short]), action="store_true")
    for flag, short in FLAGS_WITH_A_VALUE.items():
        others: dict[str, Any] = {
            "--info": {"nargs": "?", "const": "all"},
            "--cfg": {"choices": ["job", "hydra", "all"]},
        }
        parser.add_argument(flag, *filter(None, [short]), **others.get(flag, {}))
    parser.add_argument("overrides", nargs="*")
    flags = {*FLAGS, *FLAGS.values(), *FLAGS_WITH_A_VALUE, *FLAGS_WITH_A_VALUE.values()}
    for number, word in enumerate(argv):
        name, _, value = word.partition("=")
        abbreviates = name.startswith("--") and any(flag.startswith(name) for flag in flags)
        if word.startswith("-") and word not in flags and not abbreviates:
            following = [after for after in argv[number + 1 : number + 2] if "=" not in after and after[:1] != "-"]
            value = value or next(iter(following), "...")
            if near := did_you_mean(name, sorted(flags)):
                raise ConfigError(f"there is no option {word}{near}")
            raise ConfigError(f"there is no option {word}; write {name.lstrip('-')}={value}, without a dash")

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")

    setattr(parser, "error", fail)  # which would print the usage  # noqa: B010
    arguments = parser.parse_intermixed_args(argv)
    for word, following in itertools.pairwise([*arguments.overrides, ""]):
        if KEY.fullmatch(word):
            value = following if following and "=" not in following and following[0] not in "~-" else "..."
            raise ConfigError(without_equals(word, value))
    return arguments


def unreadable(text: str, reason: str) -> str:
    """How to write what is no override.

    Args:
        reason: why Hydra cannot read it.
    """
    if text.startswith("-"):
        return f"{text!r} is no override; write {text.lstrip('-')}, key=value without a dash"
    if given := re.fullmatch(rf"({KEY.pattern})(?:\s*[\s:]\s*([^=]*))?", text):  # epochs, epochs 5 or epochs:5
        return without_equals(given[1], given[2] or "...")
    return (
        f"{text!r} is no override ({reason}); write key=value, and quote a value with special letters for your shell "
        "and for this: \"key='a=b, c'\""
    )


def without_equals(key: str, value: str) -> str:
    return f"{key!r} is no override; give {key}={value}"
