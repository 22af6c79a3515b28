"""Command lines that say what is wrong in one line.

parser = Parser(prog="python -m src.runs", description="...")
"""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Without the usage before the message; exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")
