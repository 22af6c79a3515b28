"""Batches of any nest, with sample weights and masks: the same numbers as Keras's `fit`."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.data.pipeline import InMemory, Lazy, as_batches
from src.losses import CrossEntropy, PerOutput, Tversky, WeightedSum, mean_loss
from src.metrics import MeanIoU, Of, Perplexity
from src.training.callback import Callback
from src.training.learner import Supervised
from src.training.trainer import Trainer

EXAMPLES, BATCH, STEPS, WORDS = 22, 8, 6, 11
RANDOM = np.random.default_rng(0)
X = {"age": RANDOM.normal(size=(EXAMPLES, 3)).astype(np.float32), "kind": RANDOM.integers(0, 4, EXAMPLES)}
Y = RANDOM.normal(size=EXAMPLES).astype(np.float32)
LABELS = RANDOM.integers(0, 3, EXAMPLES)
WEIGHTS = RANDOM.uniform(0, 2, EXAMPLES).astype(np.float32)
TOKENS = RANDOM.integers(1, WORDS, (EXAMPLES, STEPS)) * (np.arange(STEPS) < RANDOM.integers(2, 7, (EXAMPLES, 1)))


def of_table(outputs):
    age, kind = keras.Input((3,), name="age"), keras.Input((), dtype="int64", name="kind")
    hidden = keras.layers.Concatenate()([age, keras.layers.CategoryEncoding(4, output_mode="one_hot")(kind)])
    hidden = keras.layers.Dense(8, activation="tanh")(hidden)
    made = {name: keras.layers.Dense(units, name=name)(hidden) for name, units in outputs.items()}
    return keras.Model({"age": age, "kind": kind}, made if len(made) > 1 else next(iter(made.values())))


def of_tokens():
    tokens = keras.Input((STEPS,), dtype="int64")
    hidden = keras.layers.Embedding(WORDS, 5, mask_zero=True)(tokens)
    return keras.Model(tokens, keras.layers.Dense(WORDS)(keras.layers.LSTM(6, return_sequences=True)(hidden)))


def regression():
    mse = keras.losses.MeanSquaredError()
    return of_table({"y": 1}), (X, Y, WEIGHTS), (mse, mse), [("mae", keras.metrics.MeanAbsoluteError)]


def function_of_values():
    loss = keras.losses.mean_absolute_error
    return of_table({"y": 1}), (X, Y, WEIGHTS), (loss, loss), [("mse", keras.metrics.MeanSquaredError)]


def function_of_a_mean():
    """[n] against [n, 1] are n differences, and not n x n."""
    loss = lambda targets, outputs: tf.reduce_mean((targets - outputs) ** 2)  # noqa: E731
    return of_table({"y": 1}), (X, Y), (loss, loss), [("mse", keras.metrics.MeanSquaredError)]


def own_loss_weighted():
    """This project's cross-entropy with weights is Keras's."""
    of_keras = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours = WeightedSum(losses={"cross_entropy": CrossEntropy()})
    accuracy = keras.metrics.SparseCategoricalAccuracy
    return of_table({"y": 3}), (X, LABELS, WEIGHTS), (of_keras, ours), [("accuracy", accuracy)]


def padding():
    of_keras = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy
    return of_tokens(), (TOKENS, TOKENS), (of_keras, of_keras), [("accuracy", accuracy)]


def padding_and_a_sum():
    """The mask counts once, by whichever of the losses it is looked at."""
    of_keras = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    values = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)
    ours = WeightedSum(losses={"keras": of_keras, "own": CrossEntropy(), "values": values}, weights={"own": -1.0})
    weights = np.repeat(WEIGHTS[:, np.newaxis], STEPS, axis=1)
    accuracy = keras.metrics.SparseCategoricalAccuracy
    return of_tokens(), (TOKENS, TOKENS, weights), (of_keras, ours), [("accuracy", accuracy)]


def padding_and_own_loss():
    of_keras = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy
    weights = np.repeat(WEIGHTS[:, np.newaxis], STEPS, axis=1)  # Keras's metrics take no other with a mask
    return of_tokens(), (TOKENS, TOKENS, weights), (of_keras, CrossEntropy()), [("accuracy", accuracy)]


ONE_HEAD = [
    *(regression, function_of_values, function_of_a_mean, own_loss_weighted),
    *(padding, padding_and_a_sum, padding_and_own_loss),
]


@pytest.mark.parametrize("case", ONE_HEAD, ids=lambda case: case.__name__)
def test_losses_metrics_and_weights_are_those_of_fit(case):
    model, arrays, (loss_of_keras, loss), metrics = case()
    theirs = keras.models.clone_model(model)
    theirs.set_weights(model.get_weights())
    theirs.compile(
        keras.optimizers.SGD(0.1), loss=loss_of_keras, weighted_metrics=[made(name=n) for n, made in metrics]
    )
    history = theirs.fit(as_dataset(arrays), epochs=3, verbose=0, shuffle=False).history
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.SGD(0.1),
        loss=loss,
        metrics={n: made(name=n) for n, made in metrics},
        callbacks={},
    )
    ours = fitted(trainer, arrays, epochs=3)
    for name, values in history.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5)
    for mine, of_keras in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, of_keras, rtol=1e-4, atol=1e-6)


def test_weights_of_examples_go_with_a_mask():
    results = []
    for weights in (WEIGHTS, WEIGHTS[:, np.newaxis], np.repeat(WEIGHTS[:, np.newaxis], STEPS, axis=1)):
        metrics = {"accuracy": keras.metrics.SparseCategoricalAccuracy()}
        keras.utils.set_random_seed(0)
        trainer = Trainer(model=of_tokens(), optimizer=keras.optimizers.SGD(0.1), loss=CrossEntropy(), metrics=metrics)
        results.append(trainer.evaluate(InMemory(TOKENS, TOKENS, weights, batch_size=BATCH)))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)


@pytest.mark.parametrize("names", [("a", "b"), (0, 1)])
def test_masks_of_several_outputs_count_as_in_keras_whichever_model_gives_them(names):
    """Named or in a list; the exported model's have none of their own, and take those of the model."""
    nest = dict if isinstance(names[0], str) else lambda pairs: tuple(value for _, value in pairs)
    first = of_tokens()
    outputs = (first.outputs[0], keras.layers.Dense(WORDS, name="other")(first.outputs[0]))
    model = keras.Model(first.inputs, nest(zip(names, outputs, strict=True)))
    loss, targets = keras.losses.SparseCategoricalCrossentropy(from_logits=True), nest((n, TOKENS) for n in names)
    weights = np.repeat(WEIGHTS[:, np.newaxis], STEPS, axis=1)  # Keras takes no others with a mask
    metric = keras.metrics.SparseCategoricalAccuracy
    model.compile(loss=nest((n, loss) for n in names), weighted_metrics=nest((n, [metric(name="x")]) for n in names))
    of_keras = model.evaluate(as_dataset((TOKENS, targets, nest((n, weights) for n in names))), verbose=0)
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.SGD(0.1),
        loss=PerOutput(losses=dict.fromkeys(names, loss)),
        metrics={str(name): Of(output=name, metric=metric()) for name in names},
    )
    batches = InMemory(TOKENS, targets, WEIGHTS, batch_size=BATCH)
    ours = trainer.evaluate(batches)
    np.testing.assert_allclose([ours[name] for name in ("loss", *map(str, names))], of_keras[:1] + of_keras[-2:], 1e-5)

    def exported(tokens):
        return tf.nest.map_structure(tf.identity, model(tokens, training=False))

    assert trainer.evaluate_outputs(exported, batches, prepare=lambda raw: raw) == pytest.approx(ours, rel=1e-6)


def test_weights_of_a_column_are_those_of_examples():
    loss, arrays = CrossEntropy(), (tf.constant(LABELS), tf.constant(RANDOM.normal(size=(EXAMPLES, 3))))
    assert loss(*arrays, sample_weight=WEIGHTS[:, np.newaxis]) == loss(*arrays, sample_weight=WEIGHTS)


def test_two_heads_are_those_of_fit():
    model = of_table({"size": 1, "label": 3})
    theirs = keras.models.clone_model(model)
    theirs.set_weights(model.get_weights())
    losses = {
        "size": keras.losses.MeanSquaredError(),
        "label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    theirs.compile(
        keras.optimizers.SGD(0.1),
        loss=losses,
        loss_weights={"size": 1.0, "label": 0.5},
        weighted_metrics={"label": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]},
    )
    arrays = (X, {"size": Y, "label": LABELS}, {"size": WEIGHTS, "label": WEIGHTS[::-1].copy()})
    history = theirs.fit(as_dataset(arrays), epochs=3, verbose=0, shuffle=False).history
    trainer = Trainer(
        model=model,
        optimizer=keras.optimizers.SGD(0.1),
        loss=PerOutput(losses=losses, weights={"label": 0.5}),
        metrics={"accuracy": Of(output="label", metric=keras.metrics.SparseCategoricalAccuracy())},
        callbacks={},
    )
    ours = fitted(trainer, arrays, epochs=3)
    np.testing.assert_allclose(ours["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(ours["accuracy"], history["label_accuracy"], rtol=1e-5)
    for mine, of_keras in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, of_keras, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_of_any_kind_train_as_the_whole():
    """By a plain mean, and by the gradient for several outputs."""
    mse = keras.losses.MeanSquaredError()
    of_each = PerOutput(losses={"size": mse, "label": CrossEntropy(class_weights=[1, 2, 3])})
    for outputs, arrays, loss in (
        ({"y": 1}, (X, Y, WEIGHTS), mse),
        ({"size": 1, "label": 3}, (X, {"size": Y, "label": LABELS}, WEIGHTS), of_each),
    ):
        first = of_table(outputs)
        weights = first.get_weights()
        for parts in (1, 3):
            model = keras.models.clone_model(first)
            model.set_weights(weights)
            trainer = Trainer(
                model=model, optimizer=keras.optimizers.SGD(0.1), loss=loss, gradient_accumulation_steps=parts
            )
            trainer.fit(InMemory(*arrays, batch_size=BATCH), epochs=2)
            if parts == 1:
                whole = model.get_weights()
        for one, other in zip(whole, model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_every_kind_of_split_gives_the_same_batches():
    arrays = (X, {"size": Y, "label": LABELS}, WEIGHTS)
    examples = [tf.nest.map_structure(lambda array: array[i], arrays) for i in range(EXAMPLES)]  # noqa: B023
    splits = [InMemory(*arrays, batch_size=BATCH), Lazy(examples, batch_size=BATCH), as_batches(as_dataset(arrays))]
    for split in splits:
        cursor = split.open(0, 1)
        for step in (1, 2):
            given = split.next(cursor, tf.constant(step))
            wanted = tf.nest.map_structure(lambda array: array[step * BATCH : (step + 1) * BATCH], arrays)  # noqa: B023
            for mine, array in zip(tf.nest.flatten(given), tf.nest.flatten(wanted), strict=True):
                np.testing.assert_array_equal(mine, array)
        assert str(split.element_spec) == str(splits[0].element_spec)


def test_an_infinite_pipeline_trains_for_steps_per_epoch():
    dataset = as_dataset((X, Y)).repeat()
    assert as_batches(dataset, steps_per_epoch=5).steps_per_epoch == 5
    with pytest.raises(ValueError, match=r"number of batches is infinite; .* give steps_per_epoch"):
        as_batches(dataset)
    with pytest.raises(ValueError, match="steps_per_epoch is 5, and the dataset has 3 batches"):
        as_batches(as_dataset((X, Y)), steps_per_epoch=5)


def test_a_function_of_values_gets_its_targets_as_they_are():
    """And not as floats, which Keras makes of all: they are places here."""
    labels, scores = tf.constant(LABELS), RANDOM.normal(size=(EXAMPLES, 3)).astype(np.float32)
    found = mean_loss(lambda places, outputs: tf.gather(outputs, places, batch_dims=1), labels, tf.constant(scores))
    np.testing.assert_allclose(found, scores[np.arange(EXAMPLES), LABELS].mean(), rtol=1e-5)


def test_perplexity():
    logits = RANDOM.normal(size=(4, 5, WORDS)).astype(np.float32)
    targets = RANDOM.integers(0, WORDS, (4, 5))
    metric = Perplexity()
    metric.update_state(targets, logits)
    assert np.isnan(Perplexity().result())
    of_one = Of(output="next", metric=metric)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(of_one))
    copied.update_state({"next": targets}, {"next": logits})
    np.testing.assert_array_equal(copied.result(), metric.result())
    shares = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), targets[..., None], -1)
    np.testing.assert_allclose(metric.result(), np.exp(-shares.mean()), rtol=1e-5)


OF_CLASSES = (
    *(CrossEntropy(), Tversky(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
    WeightedSum(losses={"one": CrossEntropy()}),
)
METRICS_OF_CLASSES = (
    *(MeanIoU(num_classes=3), Perplexity(), keras.metrics.SparseCategoricalAccuracy()),
    *(keras.metrics.SparseTopKCategoricalAccuracy(k=2), keras.metrics.MeanIoU(3, sparse_y_pred=False)),
)


@pytest.mark.parametrize(
    ("outputs", "arrays", "options", "message"),
    [
        ({"a": 1, "b": 1}, (X, Y), {"loss": keras.losses.MeanSquaredError()}, "PerOutput gives each output its own"),
        (
            {"a": 1, "b": 1},
            (X, {"a": Y, "c": Y}),
            {"loss": PerOutput(losses={"a": keras.losses.MeanSquaredError(), "b": keras.losses.MeanSquaredError()})},
            "targets have no 'b'; they have a, c",
        ),
        (
            {"a": 1, "b": 1},
            (X, {"a": Y, "b": Y}),
            {
                "loss": PerOutput(losses={"a": keras.losses.MeanSquaredError(), "b": None}),
                "metrics": {"mae": keras.metrics.MeanAbsoluteError()},
            },
            "mae .*Of is a metric of one output",
        ),
        (
            {"a": 1, "b": 1},
            (X, {"a": Y, "b": Y}),
            {"loss": PerOutput(losses={"a": keras.losses.MeanSquaredError()})},
            "the model's output 'b' has no loss, .* losses has 'a': give it one, or b: null",
        ),
        ({"a": 1}, (X, np.array(["p"] * EXAMPLES)), {"loss": keras.losses.MeanSquaredError()}, "targets are string"),
        ({"a": 1}, (X, Y, WEIGHTS), {"loss": lambda y, p: tf.reduce_mean(p)}, "no argument sample_weight"),
        ({"a": 1}, (X,), {"loss": keras.losses.MeanSquaredError()}, "targets nothing"),
        ({"a": 3}, (X, Y), {"loss": keras.losses.MeanSquaredError()}, "number with number, and the shapes differ"),
        *(
            ({"a": 3}, (X, Y), options, "its targets are numbers of classes, and these are float32")
            for options in (
                *({"loss": loss} for loss in OF_CLASSES),
                *({"metrics": {"it": metric}, "loss": lambda y, p: tf.reduce_mean(p)} for metric in METRICS_OF_CLASSES),
            )
        ),
        (
            {"a": 3, "b": 1},
            (X, {"a": Y, "b": Y}),
            {
                "loss": PerOutput(losses={"a": None, "b": keras.losses.MeanSquaredError()}),
                "metrics": {"it": Of(output="a", metric=keras.metrics.SparseCategoricalAccuracy())},
            },
            "its targets are numbers of classes, and these are float32",
        ),
        ({"a": 3}, (X, Y[:, None]), {"loss": keras.losses.Huber()}, r"outputs float32 \(None, 3\) .* \(None, 1\)"),
    ],
)
def test_what_does_not_fit_together_is_told_before_a_step(outputs, arrays, options, message):
    trainer = Trainer(model=of_table(outputs), optimizer=keras.optimizers.SGD(0.1), **options)
    with pytest.raises(ValueError, match=message):
        trainer.fit(InMemory(*arrays, batch_size=BATCH), epochs=1)


@pytest.mark.parametrize("is_named", [False, True])
def test_parts_of_a_batch_refuse_a_mask_whatever_the_loss(is_named):
    loss = CrossEntropy(class_weights=[1.0] * WORDS)
    model, targets = of_tokens(), TOKENS
    if is_named:
        model = keras.Model(model.inputs, {"a": model.outputs[0], "b": model.outputs[0]})
        loss, targets = PerOutput(losses={"a": loss, "b": None}), {"a": TOKENS, "b": TOKENS}
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(0.1), loss=loss, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="does not go with outputs that have a mask"):
        trainer.fit(InMemory(TOKENS, targets, batch_size=BATCH), epochs=1)


def test_a_subclassed_model_trains_when_it_is_built():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs["age"])

    model = Mine()
    with pytest.raises(ValueError, match="Mine is not built: call it once with a batch"):
        Supervised(model=model, optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
    model({name: array[:1] for name, array in X.items()})
    trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
    before = trainer.evaluate(InMemory(X, Y, batch_size=BATCH))["loss"]
    trainer.fit(InMemory(X, Y, batch_size=BATCH), epochs=3)
    assert trainer.evaluate(InMemory(X, Y, batch_size=BATCH))["loss"] < before


def as_dataset(arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


def fitted(trainer, arrays, *, epochs):
    """Loss and metrics of each epoch, by name."""
    trainer.callbacks["keep"] = keep = Keep()
    trainer.fit(InMemory(*arrays, batch_size=BATCH), epochs=epochs)
    return {name: [metrics[f"train/{name}"] for metrics in keep.epochs] for name in trainer.learner.metrics}


class Keep(Callback):
    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, state, metrics):
        self.epochs.append(dict(metrics))
