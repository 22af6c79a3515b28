"""What is made of a config's callbacks: each is addressed by its name, and `checkpoint` is called last."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from src import build
from src.config.compose import ConfigError, compose
from src.training.callback import Callback
from src.training.trainer import Trainer
from tests.support.helpers import DIGITS

SHOWING = ["summaries", "images", "histograms", "profile"]


def built(*overrides, run_dir, **options) -> tuple[Trainer, tf.data.Dataset]:
    """The trainer of these overrides, and a data set of one small batch of its training split."""
    cfg = compose([*DIGITS, *overrides, "batch_size=4"])
    data = build.build_data(cfg)
    batch = data.train.next(data.train.open(0, 0), tf.constant(0))
    return build.build_trainer(cfg, data, run_dir=run_dir, **options), tf.data.Dataset.from_tensors(batch)


def test_callbacks_are_addressed_by_name(tmp_path):
    changes = ("~callback.export", "callback.images=null", "callback.checkpoint.max_to_keep=1")
    trainer, batch = built(*changes, run_dir=tmp_path)
    assert list(trainer.callbacks) == ["summaries", "histograms", "profile", "progress", "hparams", "checkpoint"]
    assert all(callback.name == key for key, callback in trainer.callbacks.items())
    trainer.fit(batch, batch, epochs=3)
    assert not (tmp_path / "saved_model").exists()
    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 1


@pytest.mark.parametrize(
    ("overrides", "extra"),
    [
        ([], []),
        (
            [
                "callback=early_stopping",
                "+callback.second={_target_: ${callback.early_stopping._target_}, patience: 9}",
            ],
            ["record"],
        ),
        (["callback.progress=null", "callback.checkpoint.every_steps=5"], ["record"]),
    ],
    ids=["default", "appended", "changed"],
)
def test_checkpoint_is_called_last(tmp_path, overrides, extra):
    trainer, _ = built(*overrides, run_dir=tmp_path, extra_callbacks={name: Callback() for name in extra})
    names = list(trainer.callbacks)
    assert names[-1] == "checkpoint" and set(extra) <= set(names)
    assert ("second" in names) == any("second" in override for override in overrides)


def test_what_a_link_leads_out_of_the_run_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "saved_model").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"callback\.export\.directory is .*outside of the run's directory"):
        built(run_dir=tmp_path / "run")
    assert not list((tmp_path / "mine").iterdir())


def test_callbacks_without_checkpoint(tmp_path):
    trainer, _ = built("~callback.checkpoint", run_dir=tmp_path)
    assert list(trainer.callbacks) == [*SHOWING, "progress", "export", "hparams"]


def test_a_model_that_does_not_take_the_data_is_told_with_what_they_are(tmp_path, monkeypatch):
    resolve = build.targets.resolve
    own = {"mine.net": lambda: keras.Sequential([keras.layers.Dense(3)])}
    monkeypatch.setattr(build.targets, "resolve", lambda path, **more: own.get(path) or resolve(path, **more))
    cfg = compose(["data=table"])
    cfg.model = {"_target_": "mine.net"}
    with pytest.raises(
        ConfigError, match=r"^model \(mine.net\) does not take the data's inputs, {'age': float32 \(None,\)"
    ):
        build.build_trainer(cfg, build.build_data(cfg), run_dir=tmp_path)
