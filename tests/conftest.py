"""Tests leave the user's folders alone, and say only what is theirs."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from hypothesis import settings

from src.common.command import GC_THRESHOLDS
from src.config import targets
from src.runs import provenance

targets.LOCAL = "targets.tests.txt"  # what a user has allowed in this folder is another matter

# In the background of a shell, or under nohup, these would be ignored here and by every command that a test runs.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    return folder


# Begun first, so that at the end no worker is left alone with a long one.
LONGEST = (
    "test_options.py",
    "test_resume.py",
    "test_study.py",
    "test_benchmarks.py",
    "test_isolation.py",
    "test_local.py",
    "test_cli.py",
    "test_interrupts.py",
    "test_evaluate.py",
    "test_tensorboard.py",
)


def pytest_collection_finish(session):
    """Looking for garbage among all that has been imported would take a sixth of the time of tests with TensorFlow."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="also what is marked exhaustive: half an hour")


def pytest_configure(config):
    settings.register_profile("default", max_examples=10, deadline=None)
    settings.register_profile("exhaustive", max_examples=60, deadline=None)
    settings.load_profile("exhaustive" if config.option.exhaustive else "default")


def _is_left_out(item):
    return item.get_closest_marker("exhaustive") is not None


def _beyond_samples(items):
    """Of each parametrised test marked sample(n), all cases but the first n."""
    seen = Counter()
    for item in items:
        if marker := item.get_closest_marker("sample"):
            seen[item.function] += 1
            if seen[item.function] > marker.args[0]:
                yield item


def pytest_collection_modifyitems(config, items):
    if not (config.option.exhaustive or config.option.keyword or any("::" in word for word in config.args)):
        left_out = set(filter(_is_left_out, items)) | set(_beyond_samples(items))
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
