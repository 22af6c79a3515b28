"""Every option of every group, found by itself: it composes, builds, and trains a step.

An option that cannot run with the defaults names the overrides that it needs in its header: `# partners: data=digits`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hydra.utils import get_object
from omegaconf import OmegaConf

from src import build
from src.callbacks.base import Callback
from src.config import CONFIG_DIR, compose
from src.trainer import Trainer
from tests.helpers import DIGITS

NO_PART_OF_A_RUN = {"hydra", "search"}
OPTIONS = sorted(path for path in CONFIG_DIR.glob("*/*.yaml") if path.parent.name not in NO_PART_OF_A_RUN)
SMALL_UNET = ("model.depth=1", "model.filters=4")
SMALL = {"model": (), "experiment": (), "data": SMALL_UNET}  # else DIGITS
LEAN = ("~callback.export", "~callback.images", "~callback.summaries")
SHOWING = ("summaries", "images", "histograms", "profile")
NEEDS_ALL_CALLBACKS = {"callback", "experiment"}
BUILT_FROM_NAMES = set(build.OF_PROCESS_OR_DATA)  # of conf/trainer, not for the trainer


def name(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def partners(path: Path) -> list[str]:
    """The overrides named in the option's header; else something small that suits the group."""
    named = re.search(r"^# partners: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return named[1].split() if named else list(SMALL.get(path.parent.name, DIGITS))


def built(overrides: list[str], run_dir: Path, **options: Any) -> tuple[Trainer, tf.data.Dataset]:
    """The trainer of these overrides, and a data set of one small batch of its training split."""
    cfg = compose([*overrides, "batch_size=4"])
    keras.utils.clear_session()
    keras.utils.set_random_seed(cfg.seed)
    data = build.build_data(cfg)
    batch = data.train.next(data.train.open(0, 0), tf.constant(0))
    trainer = build.build_trainer(cfg, data, run_dir=run_dir, **options)
    return trainer, tf.data.Dataset.from_tensors(batch)


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_option_trains_a_step(path, tmp_path):
    lean = () if path.parent.name in NEEDS_ALL_CALLBACKS else LEAN
    trainer, batch = built([*partners(path), name(path), *lean], tmp_path)
    before = [variable.numpy() for variable in trainer.model.trainable_variables]
    state = trainer.fit(batch, batch, epochs=1)
    after = [variable.numpy() for variable in trainer.model.trainable_variables]
    assert state.step == 1 and np.isfinite([*state.losses, state.best.value]).all()
    assert any((x != y).any() for x, y in zip(before, after, strict=True))
    assert all(np.isfinite(x).all() for x in after)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings with a `_target_`."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def accepted(target: Any) -> set[str]:
    """The arguments that it takes by name; what a class takes as **kwargs belongs to its bases."""
    found = set()
    for function in [c.__init__ for c in target.__mro__] if inspect.isclass(target) else [target]:
        parameters = inspect.signature(function).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self"}


def unknown_keys(config: Any) -> list[str]:
    """Each `target: key` where the target takes no such argument."""
    return [
        f"{node['_target_']}: {key}"
        for node in nodes(config)
        for key in node
        if not key.startswith("_") and key not in accepted(get_object(node["_target_"]))
    ]


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_targets_take_the_keys_of_the_file(path):
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert unknown_keys(content) == []
    if "@package _global_" in path.read_text(encoding="utf-8"):
        assert set(content) - {"defaults"} <= set(compose([*partners(path), name(path)]))
        content = content.get("trainer", {})
    elif path.parent.name != "trainer":
        content = {}
    assert set(content) - BUILT_FROM_NAMES <= accepted(Trainer)


@pytest.mark.parametrize(
    ("config", "unknown"),
    [
        ({"a": [{"_target_": "keras.optimizers.SGD", "momentum": 0, "mass": 1}]}, ["keras.optimizers.SGD: mass"]),
        ({"_target_": "src.models.cnn.cnn", "depth": 3, "_convert_": "all"}, ["src.models.cnn.cnn: depth"]),
        ({"_target_": "keras.metrics.MeanIoU", "num_classes": 2, "dtype": None}, []),
    ],
)
def test_unknown_keys_are_seen(config, unknown):
    assert unknown_keys(config) == unknown


@pytest.mark.parametrize("leave_out", ["~callback.export", "callback.export=null"])
def test_callbacks_are_addressed_by_name(tmp_path, leave_out):
    trainer, batch = built([*DIGITS, leave_out, "callback.checkpoint.max_to_keep=1"], tmp_path)
    assert list(trainer.callbacks) == [*SHOWING, "progress", "hparams", "checkpoint"]
    trainer.fit(batch, batch, epochs=3)
    assert not (tmp_path / "saved_model").exists()
    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["callback=early_stopping"],
        ["callback=early_stopping", "+callback.second={_target_: ${callback.early_stopping._target_}, patience: 9}"],
        ["callback.progress=null", "callback.checkpoint.every_steps=5"],
    ],
    ids=["default", "option", "appended", "changed"],
)
@pytest.mark.parametrize("extra", [{}, {"record": Callback()}], ids=["", "extra"])
def test_checkpoint_is_called_last(tmp_path, overrides, extra):
    trainer, _ = built([*DIGITS, *overrides], tmp_path, extra_callbacks=extra)
    names = list(trainer.callbacks)
    assert names[-1] == "checkpoint" and set(extra) <= set(names)
    assert ("second" in names) == any("second" in override for override in overrides)
    assert all(callback.name == key for key, callback in trainer.callbacks.items())


def test_callbacks_without_checkpoint(tmp_path):
    trainer, _ = built([*DIGITS, "~callback.checkpoint"], tmp_path)
    assert list(trainer.callbacks) == [*SHOWING, "progress", "export", "hparams"]
