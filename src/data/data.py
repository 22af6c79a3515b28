"""What all data sets have in common, of images or of anything else."""

from __future__ import annotations

SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """The files of a data set are not as they must be; the message says which, why, and the way out."""
