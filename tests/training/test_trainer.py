"""The trainer against Keras fit and against what it promises: exact sums, no harm from NaN, stops between steps."""

from __future__ import annotations

import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.data.digit_scenes.digits import load_digits
from src.data.digit_scenes.scenes import compose_scene
from src.data.pipeline import InMemory
from src.models.cnn import cnn
from src.models.mlp import mlp
from src.models.unet import unet
from src.training.callback import Callback
from src.training.state import Best
from src.training.trainer import Interrupted, NonFiniteLoss, Trainer


def digits(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits()
    return images[start : start + count].astype(np.float32) / 255, labels[start : start + count]


def scenes(count: int) -> tuple[np.ndarray, np.ndarray]:
    all_scenes = [compose_scene("train", index) for index in range(count)]
    images = np.stack([scene.image for scene in all_scenes]).astype(np.float32) / 255
    return images, np.stack([scene.mask[..., 0] for scene in all_scenes]).astype(np.int32)


CASES = {
    "cnn": (lambda: cnn(input_shape=(8, 8, 1), num_classes=10, filters=4, dense=8), lambda: digits(150)),
    "unet": (lambda: unet(input_shape=(48, 48, 3), num_classes=11, filters=4, depth=1), lambda: scenes(12)),
}


def make_trainer(model: keras.Model, **options) -> Trainer:
    options.setdefault("optimizer", keras.optimizers.SGD(0.05, momentum=0.9))  # its graph is half as large as Adam's
    options.setdefault("metrics", {"accuracy": keras.metrics.SparseCategoricalAccuracy()})
    options.setdefault("loss", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return Trainer(model=model, **options)


def small_trainer(seed: int = 0, *, precision: str = "float32", **options) -> Trainer:
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    model = mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=(8,), dropout=0.2)
    keras.config.set_dtype_policy("float32")
    return make_trainer(model, **options)


def weights(trainer: Trainer) -> list[np.ndarray]:
    return [v.numpy() for group in trainer.state.variables().values() for v in group]


def assert_same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


class Recorder(Callback):
    """Notes what it is told."""

    def __init__(self, *, every_steps: int | None = None, at_steps=()) -> None:
        self.every_steps, self.at_steps = every_steps, at_steps
        self.logs, self.epochs, self.calls, self.losses = [], [], [], []

    def on_train_begin(self, state):
        self.calls.append("begin")

    def on_log(self, state, metrics):
        self.logs.append((state.step, dict(metrics)))
        self.losses += list(state.losses)

    def on_epoch_end(self, state, metrics):
        self.epochs.append(dict(metrics))

    def on_interrupt(self, state, reason):
        self.calls.append(f"interrupt {reason}")

    def on_train_end(self, state):
        self.calls.append("end")

    def close(self):
        self.calls.append("close")


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", CASES)
def test_two_epochs_equal_keras_fit(case):
    """Same losses (1e-5) and weights (1e-4) as compile/fit, from equal weights, order and batches."""
    make_model, make_data = CASES[case]
    keras.utils.set_random_seed(1)
    ours, theirs = make_model(), make_model()
    theirs.set_weights(ours.get_weights())
    (images, labels), batch_size = make_data(), 32

    recorder = Recorder()
    trainer = make_trainer(
        ours, optimizer=keras.optimizers.Adam(1e-3), callbacks={"recorder": recorder}, monitor="val/loss"
    )
    train = InMemory(images, labels, batch_size=batch_size)
    trainer.fit(train, InMemory(images[:50], labels[:50], batch_size=batch_size), epochs=2)

    theirs.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    validation = (images[:50], labels[:50])
    history = theirs.fit(
        images, labels, batch_size=batch_size, epochs=2, shuffle=False, verbose=0, validation_data=validation
    ).history
    for epoch, metrics in enumerate(recorder.epochs):
        for key, name in {"train/loss": "loss", "val/loss": "val_loss"}.items():
            assert metrics[key] == pytest.approx(history[name][epoch], rel=1e-5)
        for key, name in {"train/accuracy": "accuracy", "val/accuracy": "val_accuracy"}.items():
            assert metrics[key] == pytest.approx(history[name][epoch], abs=1e-6)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_clipping_and_regularisation_equal_keras_fit():
    """The global norm is clipped, and the model's own losses are added, as Keras does."""
    images, labels = digits(64)

    def model() -> keras.Model:
        inputs = keras.Input((8, 8, 1))
        dense = keras.layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.01))
        return keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))

    ours, theirs = model(), model()
    theirs.set_weights(ours.get_weights())
    trainer = make_trainer(ours, optimizer=keras.optimizers.SGD(0.5), clip_norm=0.3)
    trainer.fit(InMemory(images, labels, batch_size=16), epochs=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(keras.optimizers.SGD(0.5, global_clipnorm=0.3), loss)
    history = theirs.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    assert trainer.state.best.value == pytest.approx(min(history["loss"]), rel=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_evaluation_does_not_depend_on_batch_size(case):
    make_model, make_data = CASES[case]
    images, labels = make_data()
    keras.utils.set_random_seed(2)
    model = make_model()
    classes = model.output_shape[-1]
    metrics = {
        "accuracy": keras.metrics.SparseCategoricalAccuracy(),
        "mean_iou": keras.metrics.MeanIoU(num_classes=classes, sparse_y_pred=False),
    }
    trainer = make_trainer(model, metrics=metrics)
    results = [trainer.evaluate(InMemory(images, labels, batch_size=size)) for size in (1, 7, len(images))]
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-6, rel=1e-5)

    logits = model.predict(images, verbose=0).astype(np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probability, labels[..., None].astype(int), -1).mean()
    assert results[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert results[0]["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-6)


def test_short_last_batch_counts_for_what_it_holds():
    """The epoch's loss is the mean over examples, not over batches."""
    images, labels = digits(33)
    trainer = small_trainer(optimizer=keras.optimizers.SGD(0.0))
    recorder = Recorder()
    trainer.callbacks = {"recorder": recorder}
    trainer.fit(InMemory(images, labels, batch_size=32), epochs=1)
    first, last = recorder.losses
    assert recorder.epochs[0]["train/loss"] == pytest.approx((32 * first + last) / 33, rel=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("steps_per_call", [1, 7, None])
def test_calls_of_any_length_and_a_dataset_train_the_same_bits(steps_per_call):
    images, labels = digits(100)
    in_memory = InMemory(images, labels, batch_size=16)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    reference, trainer = small_trainer(steps_per_call=3), small_trainer(steps_per_call=steps_per_call)
    reference.fit(in_memory, epochs=2)
    trainer.fit(dataset, epochs=2)
    assert_same(weights(trainer), weights(reference))


def test_calls_end_where_callbacks_ask():
    images, labels = digits(100)
    recorder = Recorder(every_steps=3, at_steps=(5,))
    small_trainer(callbacks={"recorder": recorder}, steps_per_call=100).fit(
        InMemory(images, labels, batch_size=10), epochs=2
    )
    assert [step for step, _ in recorder.logs] == [3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert len(recorder.losses) == 20
    assert recorder.calls == ["begin", "end", "close"]
    for (_, metrics), key in itertools.product(recorder.logs, ("train/loss", "learning_rate", "steps_per_second")):
        assert isinstance(metrics[key], float)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("poison", "steps_per_call"), [(math.nan, 10), (math.inf, 1)])
def test_non_finite_loss_stops_within_its_step_before_the_weights(poison, steps_per_call):
    images, labels = digits(96)
    images = images.copy()
    images[64 + 3] = poison  # of the third batch of 32

    def variables(trainer):
        model, optimizer = trainer.model, trainer.optimizer
        return [v.numpy() for v in (*model.trainable_variables, *optimizer.variables)]

    clean = small_trainer()
    clean.fit(InMemory(images[:64], labels[:64], batch_size=32), epochs=1)
    recorder = Recorder()
    trainer = small_trainer(callbacks={"recorder": recorder}, steps_per_call=steps_per_call)
    with pytest.raises(NonFiniteLoss, match="step 3 is not finite"):
        trainer.fit(InMemory(images, labels, batch_size=32), epochs=1)
    assert_same(variables(trainer), variables(clean))
    assert recorder.calls == ["begin", "close"]


def test_non_finite_gradient_of_a_finite_loss_stops_too():
    """sqrt has an infinite slope at 0: the loss is fine, the weights would not be."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)(inputs))
    trainer = Trainer(
        model=model, optimizer=keras.optimizers.SGD(0.1), loss=lambda y, x: tf.reduce_mean(tf.sqrt(tf.abs(x - y)))
    )
    with pytest.raises(NonFiniteLoss, match="step 1"):
        trainer.fit(InMemory(np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32), batch_size=4), epochs=1)
    assert np.all(model.get_weights()[0] == 0)


class InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.at_steps, self.trainer = (step,), None

    def on_log(self, state, metrics):
        if state.step in self.at_steps:
            self.trainer.interrupt("SIGTERM")


@pytest.mark.sample(1)
@pytest.mark.parametrize("step", [1, 6, 7, 9])
def test_interrupted_training_goes_on_with_the_same_bits(step):
    """Interrupted after any step, also the last of an epoch, before its validation."""
    images, labels = digits(100)
    train, val = InMemory(images, labels, batch_size=16, shuffle_seed=3), InMemory(images, labels, batch_size=64)
    straight_recorder, recorder = Recorder(), Recorder()
    straight = small_trainer(callbacks={"recorder": straight_recorder}, monitor="val/loss")
    straight.fit(train, val, epochs=3)

    interrupt = InterruptAt(step)
    trainer = small_trainer(callbacks={"interrupt": interrupt, "recorder": recorder}, monitor="val/loss")
    interrupt.trainer = trainer
    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer.fit(train, val, epochs=3)
    assert trainer.state.step == step
    assert recorder.calls == ["begin", "interrupt SIGTERM", "close"]

    trainer.resume()
    trainer.fit(train, val, epochs=3)
    assert_same(weights(trainer), weights(straight))
    assert recorder.epochs == straight_recorder.epochs
    assert trainer.state.best == straight.state.best


def test_interrupt_during_validation_keeps_what_training_measured():
    images, labels = digits(100)
    train = InMemory(images, labels, batch_size=16)

    class Val(InMemory):
        trainer = None

        def open(self, epoch, step):
            if self.trainer and self.trainer.state.step:  # not yet when the graphs are looked at
                self.trainer.interrupt("SIGINT")
            return super().open(epoch, step)

    val = Val(images, labels, batch_size=10)
    straight, recorder = small_trainer(monitor="val/loss"), Recorder()
    straight.fit(train, val, epochs=1)
    trainer = small_trainer(monitor="val/loss", callbacks={"recorder": recorder})
    val.trainer = trainer
    with pytest.raises(Interrupted):
        trainer.fit(train, val, epochs=1)
    assert (trainer.state.epoch, trainer.state.step) == (0, 7)
    val.trainer = None
    trainer.resume()
    trainer.fit(train, val, epochs=1)
    assert_same(weights(trainer), weights(straight))
    assert trainer.state.best == straight.state.best


def test_a_reason_stops_training():
    class Stop(Callback):
        def on_epoch_end(self, state, metrics):
            return "enough" if state.epoch == 2 else None

    images, labels = digits(32)
    recorder = Recorder()
    trainer = small_trainer(callbacks={"stop": Stop(), "recorder": recorder})
    trainer.fit(InMemory(images, labels, batch_size=16), epochs=9)
    assert (trainer.state.epoch, trainer.state.stop_reason) == (2, "enough")
    assert recorder.calls == ["begin", "end", "close"]
    trainer.fit(InMemory(images, labels, batch_size=16), epochs=9)
    assert trainer.state.epoch == 2


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {"loss": keras.metrics.Mean()}}, "a metric is named 'loss'"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; it must be a number above 0"),
        ({"steps_per_call": 0}, "steps_per_call is 0"),
        ({"mode": "best"}, "mode is 'best'; it must be one of min, max"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small_trainer(**options)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("monitor", "labels_shape", "message"),
    [
        ("val/loss", (16,), r"monitor is 'val/loss'; .*train/accuracy \(there is no val split\)"),
        ("train/iou", (16,), "monitor is 'train/iou'; this run measures train/loss, train/accuracy"),
        ("train/loss", (16, 8, 8), "loss cannot compare the model's outputs"),
    ],
)
def test_what_does_not_fit_is_found_before_the_first_step(monitor, labels_shape, message):
    recorder = Recorder()
    trainer = small_trainer(monitor=monitor, callbacks={"recorder": recorder})
    before = weights(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(InMemory(digits(16)[0], np.zeros(labels_shape, np.int32), batch_size=4), epochs=1)
    assert_same(weights(trainer), before)
    assert recorder.calls == []


def test_xla_trains_as_well():
    """Without dropout, for which XLA draws other numbers."""
    trainers = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=(8,))
        trainers.append(make_trainer(model, jit_compile=jit_compile))
        trainers[-1].fit(InMemory(*digits(40), batch_size=16), epochs=1)
    plain, compiled = trainers
    assert compiled.state.step == 3 and plain.state.best.value == pytest.approx(compiled.state.best.value, rel=1e-5)
    for ours, theirs in zip(weights(compiled), weights(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_non_finite_validation_loss_does_not_cut_validation_short():
    images, labels = digits(64)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    recorder, model = Recorder(), mlp(input_shape=(8, 8, 1), num_classes=10)
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.Adam(),
        loss=lambda y, x: tf.where(tf.shape(x)[0] == 8, math.nan, cross_entropy(y, x)),
        metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()},
        callbacks={"recorder": recorder},
    )
    trainer.fit(InMemory(images, labels, batch_size=16), InMemory(images, labels, batch_size=8), epochs=1)
    assert math.isnan(recorder.epochs[0]["val/loss"])
    right = model.predict(images, verbose=0).argmax(-1) == labels
    assert recorder.epochs[0]["val/accuracy"] == pytest.approx(right.mean(), abs=1e-6)


class StopBelow(Callback):
    def __init__(self, **options) -> None:
        self.every_steps = options.get("every_steps")

    def on_log(self, state, metrics):
        return "low enough" if state.step >= 4 else None


@pytest.mark.sample(2)
@pytest.mark.parametrize("steps_per_call", [1, 3, 100])
def test_a_stop_within_an_epoch_does_not_depend_on_the_length_of_calls(steps_per_call):
    data = InMemory(*digits(100), batch_size=10)
    trainer = small_trainer(callbacks={"stop": StopBelow(every_steps=3)}, steps_per_call=steps_per_call)
    if steps_per_call == 1:  # a call ends at step 4, where the callback is not asked
        with pytest.raises(ValueError, match="callback stop stops at step 4, which is none of its every_steps"):
            trainer.fit(data, epochs=1)
    else:
        trainer.fit(data, epochs=1)
        assert (trainer.state.step, trainer.state.epoch, trainer.state.stop_reason) == (6, 0, "low enough")


def test_metrics_are_read_only_and_each_callback_is_closed_whatever_happens():
    class Breaks(Callback):
        def on_epoch_end(self, state, metrics):
            metrics["train/loss"] = 0.0

        def close(self):
            raise OSError("cannot close")

    recorder = Recorder()
    trainer = small_trainer(callbacks={"recorder": recorder, "breaks": Breaks(), "more": Breaks()})
    with pytest.raises(OSError, match="cannot close") as caught:
        trainer.fit(InMemory(*digits(16), batch_size=16), epochs=1)
    assert recorder.calls == ["begin", "close"]
    assert isinstance(caught.value.__context__.__context__, TypeError)


def test_an_infinite_monitor_is_never_the_best():
    class Infinite(keras.metrics.Metric):
        def update_state(self, y_true, y_pred):
            pass

        def result(self):
            return tf.constant(math.inf)

    trainer = small_trainer(metrics={"odd": Infinite()}, monitor="train/odd", mode="max")
    assert trainer.fit(InMemory(*digits(16), batch_size=16), epochs=1).best is None


def test_float64():
    inputs = keras.Input((2,), dtype="float64")
    dense = keras.layers.Dense(1, dtype="float64", kernel_regularizer=keras.regularizers.L2(0.1))
    trainer = Trainer(
        model=keras.Model(inputs, dense(inputs)),
        optimizer=keras.optimizers.SGD(0.01),
        loss=keras.losses.MeanSquaredError(dtype="float64"),
    )
    data = InMemory(np.ones((8, 2)), np.ones((8, 1)), batch_size=4)
    before = trainer.evaluate(data)["loss"]
    trainer.fit(data, epochs=2)
    assert trainer.evaluate(data)["loss"] < before


def test_evaluating_a_dataset_again_makes_no_new_graph():
    dataset, trainer = tf.data.Dataset.from_tensor_slices(digits(32)).batch(16), small_trainer()
    assert trainer.evaluate(dataset) == trainer.evaluate(dataset)
    assert len(trainer._loops) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": keras.optimizers.SGD(0.1, loss_scale_factor=8.0)}, "the optimizer scales the loss"),
        (
            {"metrics": {"f1": keras.metrics.Precision(thresholds=[0.2, 0.5])}},
            "instead of one number|f1 cannot compare",
        ),
    ],
)
def test_what_would_train_wrongly_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_trainer(**options).fit(InMemory(*digits(16), batch_size=16), epochs=1)


def test_several_outputs_need_a_loss_of_each():
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(10)(flat), keras.layers.Dense(2)(flat)])
    with pytest.raises(ValueError, match="PerOutput gives each output its own loss"):
        make_trainer(model).fit(InMemory(*digits(16), batch_size=16), epochs=1)


def test_a_checkpoint_of_before_does_not_say_the_best_steps_metrics():
    state = small_trainer(monitor="val/loss").state
    state.end_epoch({"train/loss": 0.3, "val/loss": math.nan})
    state.end_epoch({"train/loss": 0.3, "val/loss": 0.1, "val/odd": math.nan})
    saved = state.tensors().progress
    state.load_progress()
    assert str(state.best.metrics) == "{'train/loss': 0.3, 'val/loss': 0.1, 'val/odd': nan}"
    progress = json.loads(saved.numpy())
    del progress["best"]["metrics"]
    saved.assign(json.dumps(progress))
    state.load_progress()
    assert state.best == Best(0.1, epoch=2, step=0)
