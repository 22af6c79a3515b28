"""The trainer's options: averaged weights, batches in parts, float16, validation now and then, ignored labels."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.callbacks.checkpoint import Checkpoint
from src.callbacks.early_stopping import EarlyStopping
from src.callbacks.export import Export
from src.data.images.image_data import ImageData
from src.data.pipeline import InMemory
from src.losses import CrossEntropy
from src.models.cnn import cnn
from src.models.unet import unet
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints, best_weights
from src.training.state import kept
from src.training.trainer import Interrupted, NonFiniteLoss, Trainer
from tests.training.test_trainer import Recorder, assert_same, digits, make_trainer, scenes, small_trainer, weights


def batches(count: int = 64, *, start: int = 0, seed: int | None = 0, batch_size: int = 16) -> InMemory:
    return InMemory(*digits(count, start), batch_size=batch_size, shuffle_seed=seed)


def averaging(momentum: float = 0.7) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(1e-1, use_ema=True, ema_momentum=momentum, name="sgd")


def trained_weights(trainer: Trainer) -> list[np.ndarray]:
    return [v.numpy() for v in trainer.model.trainable_variables]


class WeightsOfSteps(Callback):
    every_steps = 1

    def __init__(self) -> None:
        self.trained: list[list[np.ndarray]] = []

    def on_log(self, state, metrics):
        self.trained.append([v.numpy() for v in state.model.trainable_variables])


def test_averaged_weights_are_evaluated_and_exported(tmp_path):
    """Against NumPy's own averages of each step's weights; what is trained stays as it is."""
    steps = WeightsOfSteps()
    saving = {"export": Export(directory=f"{tmp_path}/saved", best=f"{tmp_path}/best")}
    saving["checkpoint"] = Checkpoint(directory=str(tmp_path))
    trainer = small_trainer(optimizer=averaging(), callbacks={"steps": steps, **saving}, monitor="val/loss")
    val = batches(40, start=100, seed=None)
    trainer.fit(batches(), val, epochs=2)

    average = steps.trained[0]
    for now in steps.trained[1:]:
        average = [0.7 * a + np.float32(0.3) * w for a, w in zip(average, now, strict=True)]
    assert_same(trained_weights(trainer), steps.trained[-1])
    measured = trainer.evaluate(val)
    with trainer.state.measured_weights():
        for ours, theirs in zip(trained_weights(trainer), average, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_same(trained_weights(trainer), steps.trained[-1])

    plain = small_trainer()
    for variable, value in zip(plain.model.trainable_variables, average, strict=True):
        variable.assign(value)
    expected = plain.evaluate(val)
    assert measured == pytest.approx(expected, rel=1e-5)
    for variable, value in zip(plain.model.trainable_variables, steps.trained[-1], strict=True):
        variable.assign(value)
    assert abs(plain.evaluate(val)["loss"] - measured["loss"]) > 1e-4  # the trained ones are others

    assert trainer.state.best.epoch == 2
    fresh = small_trainer(seed=9, optimizer=averaging(), monitor="val/loss")
    Checkpoints(tmp_path / "best").restore_weights(fresh.state)
    assert fresh.evaluate(val) == measured
    images = (digits(5)[0] * 255).astype(np.uint8)
    served = tf.saved_model.load(f"{tmp_path}/saved/1").signatures["serving_default"](image=tf.constant(images))
    own = trainer.state.predict(tf.cast(images, tf.float32) * (1 / 255))
    np.testing.assert_allclose(served["logits"], own, rtol=1e-5, atol=1e-5)


def test_before_the_first_step_there_are_no_averages(tmp_path):
    trainer = small_trainer(optimizer=averaging())
    data = batches(20, seed=None)
    assert trainer.evaluate(data) == small_trainer().evaluate(data)
    with best_weights(trainer.state, tmp_path):
        assert_same(trained_weights(trainer), trained_weights(small_trainer()))


@pytest.mark.sample(1)
@pytest.mark.parametrize("parts", [4, 2, 16])
@pytest.mark.parametrize("count", [41, 48])  # 41: the last batch has 9 examples
def test_a_batch_in_parts_trains_as_a_whole_one(parts, count):
    def fitted(**options):
        keras.utils.set_random_seed(0)
        model = cnn(input_shape=(8, 8, 1), num_classes=10, filters=4, dense=8)
        trainer = make_trainer(model, optimizer=keras.optimizers.SGD(0.05), clip_norm=0.5, **options)
        recorder = Recorder()
        trainer.callbacks = {"recorder": recorder}
        trainer.fit(batches(count), epochs=2)
        return trainer, recorder

    (whole, expected), (ours, found) = fitted(), fitted(gradient_accumulation_steps=parts)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    for a, b in zip(weights(ours), weights(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert found.epochs[-1] == pytest.approx(expected.epochs[-1], rel=1e-5)


def test_parts_count_by_what_is_not_ignored():
    images, masks = scenes(6)
    masks[:2], masks[2, :30] = 255, 255  # the first part of three has nothing that counts
    masks = np.concatenate([masks, np.full_like(masks, 255)])  # nor has the second batch, but for the regulariser
    images = np.concatenate([images, images])

    def fitted(parts):
        keras.utils.set_random_seed(0)
        model = unet(input_shape=(48, 48, 3), num_classes=11, filters=4, depth=1, batch_norm=False)
        model.get_layer("down_0_conv_1").kernel_regularizer = keras.regularizers.L2(0.1)
        options = {"gradient_accumulation_steps": parts, "ignore_label": 255, "optimizer": keras.optimizers.SGD(0.1)}
        trainer = Trainer(model=model, loss=CrossEntropy(ignore_label=255), **options)
        trainer.fit(InMemory(images, masks, batch_size=6), epochs=2)
        return trainer

    for a, b in zip(weights(fitted(3)), weights(fitted(1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.exhaustive
def test_a_scaled_loss_trains_as_a_plain_one():
    """Bit for bit: a power of two changes only exponents."""
    plain, scaled = small_trainer(), small_trainer(loss_scaling=True)
    for trainer in (plain, scaled):
        trainer.fit(batches(), epochs=2)
    assert_same(weights(scaled)[:-2], weights(plain))
    assert [v.numpy() for v in scaled.learner.loss_scale.variables] == [2.0**15, 8]


def test_a_gradient_that_overflows_is_left_out_and_the_scale_adapts():
    trainer = small_trainer(loss_scaling=True, precision="mixed_float16")
    scale, finite_steps = trainer.learner.loss_scale.variables
    scale.assign(2.0**24)
    before = trained_weights(trainer)
    trainer.fit(batches(16), epochs=1)
    assert_same(trained_weights(trainer), before)
    assert (scale.numpy(), finite_steps.numpy()) == (2.0**23, 0) and trainer.state.step == 1
    assert np.isfinite(trainer.state.losses).all() and not np.isfinite(trainer.state.gradient_norms).any()
    scale.assign(2.0**10)
    finite_steps.assign(1999)
    trainer.fit(batches(16), epochs=2)
    assert (scale.numpy(), finite_steps.numpy()) == (2.0**11, 0)
    assert any((a != b).any() for a, b in zip(trained_weights(trainer), before, strict=True))


def test_a_loss_that_is_nan_is_no_matter_of_scale():
    options = {"loss_scaling": True, "optimizer": keras.optimizers.SGD(0.25)}
    trainer = small_trainer(loss=lambda targets, outputs: math.nan * tf.reduce_mean(outputs), **options)
    with pytest.raises(NonFiniteLoss, match=r"learning rate \(it is 0\.25;"):
        trainer.fit(batches(16), epochs=1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_and_resumes_exactly(precision, tmp_path):

    def fitted(epochs, folder):
        recorder = Recorder()
        trainer = small_trainer(
            precision=precision,
            loss_scaling=precision == "mixed_float16",
            optimizer=keras.optimizers.SGD(0.1, momentum=0.9, name="sgd"),
            callbacks={"recorder": recorder},
        )
        Checkpoints(folder).restore(trainer.state)
        trainer.fit(batches(), epochs=epochs)
        Checkpoints(folder).save(trainer.state)
        return trainer, recorder.losses

    straight, losses = fitted(4, tmp_path / "straight")
    assert straight.model.layers[1].compute_dtype == precision.removeprefix("mixed_")
    fitted(2, tmp_path / "resumed")
    resumed, _ = fitted(4, tmp_path / "resumed")
    assert_same(weights(resumed), weights(straight))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


class Told(Recorder):
    """Notes validations too, as (step, whether it was the best)."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.validations: list[tuple[int, bool]] = []

    def on_validation(self, state, metrics):
        assert set(metrics) == {"val/loss", "val/accuracy"}
        self.validations.append((state.step, state.improved))


def test_validation_now_and_then():
    told = Told()
    stop = EarlyStopping(patience=1)
    trainer = small_trainer(
        callbacks={"told": told, "stop": stop}, monitor="val/loss", validate_every_epochs=2, validate_every_steps=3
    )
    state = trainer.fit(batches(), batches(40, start=100, seed=None), epochs=5)  # of four steps each
    assert [step for step, _ in told.validations] == [3, 6, 9, 15, 18]  # 12 ends an epoch
    validated = [number for number, metrics in enumerate(told.epochs, start=1) if "val/loss" in metrics]
    assert validated == [2, 3, 4, 5] and all("train/loss" in metrics for metrics in told.epochs)
    assert state.epoch == 5 and state.stop_reason is None  # an epoch without the metric is no epoch without progress


def test_validation_within_an_epoch_changes_no_training():
    plain, validating = small_trainer(), small_trainer(validate_every_steps=1)
    for trainer in (plain, validating):
        trainer.fit(batches(), batches(40, start=100, seed=None), epochs=2)
    assert_same(weights(validating), weights(plain))


def test_the_best_may_be_reached_within_an_epoch(tmp_path):
    """And an interruption in the midst of such a validation, or right before it, loses nothing."""
    val = batches(40, start=100, seed=None)
    told = Told()

    def trainer_in(folder, *callbacks):
        named = {f"c{place}": callback for place, callback in enumerate(callbacks)}
        return small_trainer(
            optimizer=keras.optimizers.SGD(0.1, name="sgd"),
            callbacks={**named, "checkpoint": Checkpoint(directory=str(folder), every_steps=2)},
            monitor="val/loss",
            mode="max",  # so that the first is the best
            validate_every_steps=2,
        )

    straight = trainer_in(tmp_path / "a", told)
    straight.fit(batches(), val, epochs=2)
    best = straight.state.best
    assert (best.epoch, best.step) == (1, 2) and told.validations[0] == (2, True)
    assert set(best.metrics) == {"val/loss", "val/accuracy"} and best.metrics["val/loss"] == best.value

    class Interrupts(Callback):
        every_steps = 2

        def on_log(self, state, metrics):
            if state.step == 2:
                resumed.interrupt("power")

    resumed = trainer_in(tmp_path / "b", Interrupts())
    with pytest.raises(Interrupted):
        resumed.fit(batches(), val, epochs=2)
    resumed = trainer_in(tmp_path / "b")
    Checkpoints(tmp_path / "b").restore(resumed.state)
    assert resumed.state.step == 2 and resumed.state.best is None
    resumed.fit(batches(), val, epochs=2)
    assert resumed.state.best == best
    assert_same(weights(resumed), weights(straight))
    with best_weights(straight.state, tmp_path / "a/best"), best_weights(resumed.state, tmp_path / "b/best"):
        assert_same(trained_weights(resumed), trained_weights(straight))


class Several(keras.metrics.Metric):
    """Two numbers of the same predictions."""

    def __init__(self, names=("right", "wrong")) -> None:
        super().__init__()
        self.names, self.right = names, keras.metrics.SparseCategoricalAccuracy()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.right.update_state(y_true, y_pred, sample_weight)

    def result(self):
        right = self.right.result()
        return dict(zip(self.names, (right, 1 - right), strict=True))

    def reset_state(self):
        self.right.reset_state()


def test_a_metric_may_give_several_numbers():
    recorder = Recorder()
    options = {"metrics": {"several": Several()}, "callbacks": {"recorder": recorder}, "monitor": "val/wrong"}
    trainer = small_trainer(**options)
    state = trainer.fit(batches(), batches(40, start=100, seed=None), epochs=1)
    assert list(recorder.epochs[0]) == [f"{s}/{n}" for s in ("train", "val") for n in ("loss", "right", "wrong")]
    assert state.best.value == recorder.epochs[0]["val/wrong"] == pytest.approx(1 - recorder.epochs[0]["val/right"])
    for names in (("loss", "wrong"), ("accuracy", "wrong")):
        metrics = {"accuracy": keras.metrics.SparseCategoricalAccuracy(), "several": Several(names)}
        with pytest.raises(ValueError, match=f"several metrics are named '{names[0]}'"):
            small_trainer(metrics=metrics).check(batches(), None)


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch_size", [4, 1, 6])
def test_ignored_targets_count_nowhere(batch_size):
    """Neither in the loss nor in any metric, however the examples fall into batches; against NumPy."""
    images, masks = scenes(6)
    masks[0], masks[1:, :20] = 255, 255
    keras.utils.set_random_seed(0)
    model = unet(input_shape=(48, 48, 3), num_classes=11, filters=4, depth=1)
    metrics = {
        "accuracy": keras.metrics.SparseCategoricalAccuracy(),
        "top2": keras.metrics.SparseTopKCategoricalAccuracy(2),
    }
    trainer = make_trainer(model, loss=CrossEntropy(ignore_label=255), metrics=metrics, ignore_label=255)
    found = trainer.evaluate(InMemory(images, masks, batch_size=batch_size))

    logits = np.asarray(trainer.state.predict(images), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = masks != 255
    right = np.take_along_axis(log_probabilities, np.where(counted, masks, 0)[..., None], -1)[..., 0]
    better = (logits > np.take_along_axis(logits, np.where(counted, masks, 0)[..., None], -1)).sum(-1)
    assert found["loss"] == pytest.approx(-right[counted].mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == masks)[counted].mean(), rel=1e-6)
    assert found["top2"] == pytest.approx((better < 2)[counted].mean(), rel=1e-6)


def test_fewer_batches_and_overfitting():
    images, labels = digits(100)
    pixels = (images * 255).astype(np.uint8)
    splits = {"train": (pixels, labels), "val": (pixels[:40], labels[:40])}
    data = ImageData(**splits, num_classes=10, batch_size=16, seed=0)
    data.limit_batches(train=2, val=9)
    assert (data.train.steps_per_epoch, data.val.steps_per_epoch) == (2, 3)

    data = ImageData(**splits, num_classes=10, batch_size=16, seed=0)
    data.overfit(batches=1)
    for epoch in (0, 3):
        seen, targets = data.train.next(data.train.open(epoch, 0), tf.constant(0))
        np.testing.assert_array_equal(seen, pixels[:16] * np.float32(1 / 255))
        np.testing.assert_array_equal(targets, labels[:16])
    assert data.val is data.train and data.train.steps_per_epoch == 1


def test_variables_are_put_back_whatever_happens():
    variable = keras.Variable([1.0, 2.0])

    def fail():
        with kept([variable]):
            variable.assign([3.0, 4.0])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    np.testing.assert_array_equal(variable, [1, 2])


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)}, "trainer's own option"),
        ({"gradient_accumulation_steps": 2, "jit_compile": True}, "do not go together"),
        ({"validate_every_steps": 0}, "validate_every_steps is 0; it must be an integer at least 1"),
        ({"validate_every_epochs": -1}, "validate_every_epochs is -1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        small_trainer(**options)
