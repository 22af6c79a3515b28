"""The command that installs an extra of this project.

raise ConfigError(f"--to onnx needs tf2onnx: {install_command('onnx')}")
"""

from __future__ import annotations

import shlex
from pathlib import Path

from src.common.code import ROOT


def install_command(extra: str) -> str:
    """As it can be typed in the folder where one is now."""
    if Path.cwd() == ROOT:
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install -c {shlex.quote(str(ROOT / 'constraints.txt'))} -e {shlex.quote(f'{ROOT}[{extra}]')}"
