"""Tests leave the user's folders alone, and say only what is theirs."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from src.runs import provenance


@pytest.fixture(autouse=True)
def files_as_they_are():
    """A process reads the code that it fingerprints once; a test that edits some is many processes in one."""
    provenance.forget()


@pytest.fixture(scope="session", autouse=True)
def tfds_folder(tmp_path_factory):
    """One folder of prepared data sets for all tests and workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tfds"
    os.environ["TFDS_DATA_DIR"] = str(folder)
    return folder
