"""Composable, resumable, fast training experiments with TensorFlow."""

import importlib.util
import os
import sys

# The number of a standard stream that is closed would be given to the next file opened, and what native code prints
# would land in that file.
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
del number

if sys.argv[:1] == ["-m"] and importlib.util.find_spec("hydra") is None:
    sys.exit(
        f"error: {sys.executable} has none of what this project needs: activate its environment with "
        "`source .venv/bin/activate`, which `make setup` makes"
    )
