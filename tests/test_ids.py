"""The ids of many commands, pinned in ids.txt: a change of one loses the runs that were made under it.

    python -m tests.test_ids data=digits optimizer=new >> tests/ids.txt

adds a line. None that is there may change: the default of a new key is null, or the key is none of the identity; a
`_target_` that moves stands in src/config/moved.py. What computes the same may have one id or several, and keeps them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from unittest import mock

import pytest
from omegaconf import OmegaConf

from src.config import compose as config, identity, moved, signatures, targets
from src.config.compose import CONFIG_DIR, compose, expand
from src.config.identity import config_hash, identity_config, run_id
from src.runs import branch as branches, provenance
from src.runs.branch import Parent, branch
from src.sweeps.plan import plan

FILE = Path(__file__).with_name("ids.txt")
LISTED = targets.FILE
OWN_CODE = ("model mine.models", "loss mine.losses", "data.transforms mine", "callback mine.callbacks")
FOLDERS = ("photos", "pets", "sets", "other.keras")
PARENT = Parent(Path("RUN"), "0f" * 32, "f0" * 32, ("data=digits", "model=cnn", "seed=3", "name=old"), step=90, epoch=2)
SMALL = "data=digits model=cnn"

# A copy, so that what leaves the identity is left out twice: a run's result cannot depend on any of these.
NOT_IDENTITY = {
    *("hydra", "name", "run", "resume", "parent.epoch", "wait", "rerun", "stale", "dry_run", "max_seconds"),
    *("log_every_steps", "callback.progress", "callback.hparams", "callback.images", "callback.histograms"),
    *("callback.examples", "callback.csv", "callback.tracker", "may_fail"),
    *("callback.profile", "callback.checkpoint.max_to_keep", "callback.checkpoint.every_steps"),
    *("callback.checkpoint.every_seconds", "callback.summaries.every_steps", "callback.summaries.graph"),
    *("trainer.steps_per_call", "data.cache_dir", "data.download", "data.max_memory_gib", "callback.export._partial_"),
    "evaluate_test",
    "strategy.devices",
    "strategy.port",
}
NOT_IDENTITY_OF_A_DATASET = {"data.data_dir"}
ORDERED = {"data.transforms", "data.mask_colors"}


def ids(command: str) -> str:
    """Of its run, or of its jobs one after another."""
    words = shlex.split(command)
    overrides = branch([word for word in words if word != "--multirun"])
    if "--multirun" in words:
        return " ".join(job.id for job in plan(expand(overrides)))
    return run_id(compose(overrides))


@contextlib.contextmanager
def a_users_folder() -> Iterator[None]:
    """The working directory of a user who has packages, pictures, and a run to branch from."""
    before = Path.cwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(targets, "FILE", Path(folder, "targets.txt")),
        mock.patch.object(branches, "find_parent", return_value=PARENT),
    ):
        targets.FILE.write_text("\n".join([LISTED.read_text(), *OWN_CODE]))
        os.chdir(folder)
        for name in FOLDERS:
            Path(name).mkdir()
        try:
            yield
        finally:
            os.chdir(before)


def pinned() -> dict[str, str]:
    """Each command and its ids, as they were when they were written down."""
    pairs = [line.rpartition(" -> ") for line in FILE.read_text(encoding="utf-8").splitlines()]
    return {command.strip(): found for command, _, found in pairs}


def test_no_id_changes():
    before = pinned()
    assert len(before) >= 60
    with a_users_folder():
        assert {command: ids(command) for command in before} == before


def test_each_option_of_each_group_has_a_line():
    words = {word for command in pinned() for word in shlex.split(command)}
    options = {f"{path.parent.name}={path.stem}" for path in CONFIG_DIR.glob("*/*.yaml") if path.parent.name != "hydra"}
    assert len(options) >= 50 and options <= words


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 16), ("trainer.new", 0), ("data.new", False), ("callback.new", {"_target_": "src.x.Y"})],
)
def test_a_new_default_that_is_not_null_is_noticed(key, value, monkeypatch):
    """The control: an option's file that says more than it did, without a word in the list of what is no identity."""

    def with_default(overrides, **options):
        cfg = config.compose(overrides, **options)
        OmegaConf.set_struct(cfg, False)
        OmegaConf.update(cfg, key, value, force_add=True)
        return cfg

    monkeypatch.setitem(globals(), "compose", with_default)
    assert ids(SMALL) != pinned()[SMALL]


def test_what_is_no_identity_is_pinned():
    """An addition is made here too, by whoever has shown that it changes no result; nothing is taken away."""
    assert set(identity.NOT_IDENTITY) == NOT_IDENTITY
    assert set(identity.NOT_IDENTITY_OF_A_DATASET) == NOT_IDENTITY_OF_A_DATASET
    assert set(identity.ORDERED) == ORDERED


@pytest.mark.parametrize("command", [SMALL, "data=image_folder data.path=photos"])
def test_every_value_is_counted_or_listed(command):
    """A value that is neither null nor listed is in the identity, at the same place."""
    with a_users_folder():
        cfg = compose(shlex.split(command))
    cfg.hydra, cfg.run = None, dict.fromkeys(cfg.run)  # what they hold is known to a run alone
    counted = _keys(identity_config(cfg))
    assert len(counted) > 20
    for key in _keys(OmegaConf.to_container(cfg, resolve=True)) - counted:
        parts = key.split(".")
        heads = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        assert any(fnmatchcase(head, pattern) for head in heads for pattern in NOT_IDENTITY), key


@pytest.mark.parametrize("key", sorted(NOT_IDENTITY_OF_A_DATASET))
def test_where_data_lies_counts_unless_it_is_a_named_set(key):
    """What is never counted leaves the id in tests/runs/test_identity.py."""
    cfg = compose(SMALL.split())
    OmegaConf.set_struct(cfg, False)
    for dataset, counts in ((cfg.data.dataset, False), (None, True)):
        cfg.data.dataset = dataset
        before = config_hash(cfg)
        OmegaConf.update(cfg, key, f"elsewhere for {dataset}", force_add=True)
        assert (config_hash(cfg) != before) == counts


def _keys(value: object, path: str = "") -> set[str]:
    """Dotted keys of all leaves that are not null; of an ordered mapping, which is a list of pairs, too."""
    if path in ORDERED and isinstance(value, list):
        value = dict(value)
    if isinstance(value, dict):
        return {key for name, item in value.items() for key in _keys(item, f"{path}.{name}" if path else name)}
    return set() if value is None else {path}


# Names that have moved


@pytest.fixture
def moves(monkeypatch):
    """Sets the table for a test: {old path: path today}."""
    monkeypatch.setattr(signatures, "absent", lambda name: None)  # as if what has moved lay there
    return functools.partial(monkeypatch.setattr, moved, "MOVED")


OLD, NEW = "mine.before.net", "src.models.mlp.mlp"


def test_a_name_that_moved_builds_what_it_means_now(moves):
    node = {"_target_": OLD, "input_shape": [8, 8, 1], "num_classes": 10, "hidden_units": [4]}
    with pytest.raises(targets.TargetError, match=OLD):
        targets.check_names({"model": node})
    moves({OLD: NEW})
    targets.check_names({"model": node})
    assert targets.resolve(OLD, group="model") is targets.resolve(NEW, group="model")
    assert targets.build(node, key="model").output_shape == (None, 10)


def test_both_spellings_have_the_id_of_the_old_name(moves):
    """As when src.models.mlp moves: today's runs are found, whichever path their config says."""
    command = "data=digits model=mlp"
    before = ids(command)
    moves({NEW: "src.models.of_tables.mlp"})
    assert ids(command) == ids(f"{command} model._target_=src.models.of_tables.mlp") == before
    moves({NEW: "src.models.again.mlp", "src.models.of_tables.mlp": "src.models.again.mlp"})
    for name in (NEW, "src.models.of_tables.mlp", "src.models.again.mlp"):
        assert ids(f"{command} model._target_={name}") == before
    assert ids(f"{command} model._target_=src.models.cnn.cnn") != before


def test_a_name_that_moved_within_a_list_or_an_object_counts_as_the_old_one(moves):
    command = f"{SMALL} 'data.transforms.shift={{_target_: src.data.transforms.Shift, max_pixels: 1}}'"
    before = ids(command)
    new = "src.data.images.Shift"
    moves({"src.data.transforms.Shift": new})
    assert ids(command) == before
    assert ids(command.replace("src.data.transforms.Shift", new)) == before


def test_the_code_of_a_name_that_moved_is_fingerprinted(moves):
    moves({OLD: NEW})
    old, new = ({"model": {"_target_": name}} for name in (OLD, NEW))
    assert provenance.fingerprints(old)["code"] == provenance.fingerprints(new)["code"]


def test_every_name_of_the_table_exists():
    """What an entry leads to can be named by a config, and no old name is in use for something else."""
    for old, new in moved.MOVED.items():
        assert new not in moved.MOVED, old
        groups = [
            group for group in targets.GROUPS if any(f"{new}.".startswith(f"{p}.") for p in targets.packages(group))
        ]
        assert groups and targets.resolve(old, group=groups[0])


if __name__ == "__main__":
    with a_users_folder():
        line = shlex.join(sys.argv[1:])
        print(f"{line} -> {ids(line)}")
