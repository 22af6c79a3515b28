"""Composable, resumable, fast training experiments with TensorFlow."""

import os

# The number of a standard stream that is closed would be given to the next file opened, and what native code prints
# would land in that file.
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
del number
