"""Make a folder for code and options of your own, so that the project can be pulled without merging.

    make new DIR=../mine
    python -m src.new ../mine

It has a package called as the folder is, with an option of each kind, and a README that says how to train with them. A
file of this project that git does not track, conf/targets.local.txt, lets configs name what is in the package.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import sys
from pathlib import Path

import yaml

from src.common.arguments import Parser
from src.common.code import ROOT
from src.common.command import run_command
from src.common.errors import ConfigError
from src.common.files import replace
from src.config import targets

TEMPLATE, PACKAGE = ROOT / "template", re.compile(r"\bmine\b")
HEADER = "# As targets.txt, which says what it means, for packages of your own; git does not track this file."


def main(argv: list[str]) -> None:
    """The command line."""
    parser = Parser(prog="python -m src.new", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new one; its name is the package's")
    folder = parser.parse_args(argv).folder
    name = folder.resolve().name
    check(folder, name)
    for source in sorted(TEMPLATE.rglob("*")):
        if source.suffix in (".py", ".yaml", ".md"):
            place = folder / PACKAGE.sub(name, str(source.relative_to(TEMPLATE)))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(PACKAGE.sub(name, source.read_text(encoding="utf-8")), encoding="utf-8")
    allow(name)
    print(f"{folder} has a package {name} with an option of each kind; its README.md says how to train with them:")
    print(f"  cd {shlex.quote(str(folder))}")
    print(f"  {shlex.quote(sys.executable)} -m src.train --config-dir=conf experiment={name}")


def check(folder: Path, name: str) -> None:
    """Raise ConfigError where the folder cannot be made, or its name is none for a package."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name) or yaml.safe_load(name) != name:
        raise ConfigError(
            f"{folder}: {name!r} is no name of a Python package that options can name, which has letters from a to "
            "z, digits and underscores, and no digit or underscore first; give another one, such as ../mine"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and not empty; give a folder that is new")
    if found := importlib.util.find_spec(name):
        place = found.origin or ", ".join(found.submodule_search_locations or ())
        raise ConfigError(f"{folder}: Python has a package {name} already ({place}); give another name")


def allow(name: str) -> None:
    """Let configs of this project name what is in the package."""
    groups = [group for group in targets.GROUPS if not group.startswith("hydra.")]
    file = targets.local_file()
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else [HEADER]
    new = [line for line in (f"{group:<17} {name}" for group in groups) if line not in lines]
    replace(file, "\n".join([*lines, *new, ""]))


if __name__ == "__main__":
    run_command(main)
