"""What is made of a config's callbacks: each is addressed by its name, and `checkpoint` is called last."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from src import build
from src.config.compose import ConfigError, compose
from src.training.callback import Callback
from src.training.trainer import Trainer
from tests.support.helpers import DIGITS

SHOWING = ["summaries", "images", "examples", "histograms", "profile", "csv", "tracker"]


def built(*overrides, run_dir, **options) -> tuple[Trainer, tf.data.Dataset]:
    """The trainer of these overrides, and a data set of one small batch of its training split."""
    cfg = compose([*DIGITS, *overrides, "batch_size=4"])
    data = build.build_data(cfg)
    batch = data.train.next(data.train.open(0, 0), tf.constant(0))
    return build.build_trainer(cfg, data, run_dir=run_dir, **options), tf.data.Dataset.from_tensors(batch)


def test_callbacks_are_addressed_by_name(tmp_path):
    changes = ("~callback.export", "callback.images=null", "callback.checkpoint.max_to_keep=1")
    trainer, batch = built(*changes, run_dir=tmp_path)
    assert list(trainer.callbacks) == ["summaries", *SHOWING[2:], "progress", "hparams", "checkpoint"]
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


def test_a_pipeline_that_is_shuffled_without_a_seed_is_told_how(monkeypatch):
    def mine(**options):
        raise RuntimeError("Random ops require a seed to be set when determinism is enabled.")

    resolve = build.targets.resolve
    monkeypatch.setattr(build.targets, "resolve", lambda path, **more: resolve(path, **more) and mine)
    with pytest.raises(ConfigError, match=r"in mine: raise RuntimeError.*needs a seed.*reshuffle_each_iteration=False"):
        build.build_data(compose([*DIGITS]))


def test_a_file_of_weights_is_begun_with(tmp_path):
    """All but the seeds of random layers; of a model of other layers it is refused."""
    small = ("model.filters=2", "model.dense=4", "model.dropout=0.5")
    other, _ = built(*small, "seed=7", run_dir=tmp_path)
    file = tmp_path / "other.weights.h5"
    other.model.save_weights(file)
    begun, fresh = (built(*small, *more, run_dir=tmp_path)[0].model for more in ([f"init_from={file}"], []))
    for mine, saved in zip(begun.trainable_variables, other.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(mine, saved)
    (ours,), (seeds,), (others,) = (model.non_trainable_variables for model in (begun, fresh, other.model))
    np.testing.assert_array_equal(ours, seeds)
    assert (ours.numpy() != others.numpy()).any()
    for options in (("model.filters=3", *small[1:]), (*small, "model.batch_norm=true"), small):
        if options is small:
            file.write_bytes(b"nothing")
        with pytest.raises(ConfigError, match=r"other\.weights\.h5 does not have the weights of this model"):
            built(*options, f"init_from={file}", run_dir=tmp_path)
