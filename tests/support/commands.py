"""Commands that need no TensorFlow, in this process: each takes its arguments and returns its exit code."""

from functools import partial

from src.common.command import exit_code
from src.compare import main as _compare
from src.runs.__main__ import main as _runs

compare = partial(exit_code, _compare)
runs = partial(exit_code, _runs)
