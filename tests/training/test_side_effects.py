"""What a step may change and draw: a checkpoint brings back all of it, or the run is refused before its first step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from src.data.pipeline import InMemory
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.side_effects import HARMLESS, READS, SUMMARIES, side_effects
from src.training.trainer import Trainer

CLASSES, SIZE, BATCH = 3, 4, 4


class Does(layers.Layer):
    """Whatever a function of its inputs and of `training` does; tf.function must convert none of it."""

    def __init__(self, function, **options) -> None:
        super().__init__(**options)
        self._function = function

    def call(self, inputs, training=False):
        return self._function(inputs, training)


def data(examples: int = 4 * BATCH) -> InMemory:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(examples, SIZE)).astype(np.float32)
    return InMemory(inputs, random.integers(0, CLASSES, examples).astype(np.int32), batch_size=BATCH)


def model_with(*inner: layers.Layer, batch_size: int | None = None) -> keras.Model:
    inputs = keras.Input((SIZE,), batch_size=batch_size)
    outputs = inputs
    for layer in inner:
        outputs = layer(outputs)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(outputs))


def trainer_of(*inner: layers.Layer, **options) -> Trainer:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    options.setdefault("model", model_with(*inner))
    options.setdefault("optimizer", keras.optimizers.SGD(1e-2, name="sgd"))
    options.setdefault("loss", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return Trainer(**options)


class OwnGenerator(layers.Layer):
    def __init__(self) -> None:
        super().__init__(name="noise")
        self._generator = tf.random.Generator.from_seed(1)

    def call(self, inputs):
        return inputs + self._generator.normal(tf.shape(inputs))


def counting(variable: tf.Variable, values: tf.Tensor) -> tf.Tensor:
    variable.assign_add(1.0)
    return values * variable


def in_a_branch(inputs: tf.Tensor, training: bool) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(inputs) > 0, lambda: inputs + tf.random.normal([]), lambda: inputs)


def in_a_loop(inputs: tf.Tensor, training: bool) -> tf.Tensor:
    return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, x + tf.random.normal([])), [0, inputs])[1]


def in_a_function(inputs: tf.Tensor, training: bool) -> tf.Tensor:
    return tf.function(lambda x: tf.map_fn(lambda row: row * tf.random.uniform([]), x))(inputs)


def as_image(draw):
    return lambda x, training: tf.reshape(draw(tf.reshape(x, [-1, 2, 2, 1])), [-1, SIZE])


def fractional_pooling(*, deterministic: bool) -> tf.Tensor:
    ratios = [1.0, 1.5, 1.5, 1.0]
    pooled = tf.raw_ops.FractionalMaxPool(
        value=tf.ones([1, 8, 8, 1]), pooling_ratio=ratios, deterministic=deterministic, seed=1
    )
    return pooled.output[0, 0, 0, 0]


RANDOM = {
    "normal": lambda x, training: x + tf.random.normal(tf.shape(x)),
    "uniform": lambda x, training: x + tf.random.uniform(tf.shape(x), seed=3),
    "dropout": lambda x, training: tf.nn.dropout(x, 0.5),
    "image": as_image(lambda x: tf.image.random_brightness(x, 0.1)),
    "flip": as_image(tf.image.random_flip_left_right),
    "shuffle": lambda x, training: tf.random.shuffle(x),
    "pooling": lambda x, training: x + fractional_pooling(deterministic=False),
    "keras_seed": lambda x, training: x + keras.random.normal([SIZE]),
    "branch": in_a_branch,
    "loop": in_a_loop,
    "function": in_a_function,
}


def refusal(trainer: Trainer) -> str:
    told = Told()
    trainer.callbacks = {"told": told}
    with pytest.raises(ValueError, match="a checkpoint cannot hold all that this changes") as caught:
        trainer.fit(data(), epochs=1)
    assert trainer.state.step == 0 and not told.begun
    return str(caught.value)


class Told(Callback):
    begun = False

    def on_train_begin(self, state):
        self.begun = True


def test_random_numbers_of_no_seed_generator_are_refused():
    trainer = trainer_of(*(Does(draw, name=kind) for kind, draw in RANDOM.items()), OwnGenerator())
    lines = refusal(trainer).splitlines()
    for kind in (*RANDOM, "noise"):
        assert any(line.startswith(f"layer {kind!r}: ") and "draws random numbers" in line for line in lines), kind
    assert "RngReadAndSkip" in "".join(lines) and "SeedGenerator" in lines[-1]


def test_what_a_regulariser_draws_is_of_the_loss():
    penalised = layers.Dense(SIZE, kernel_regularizer=lambda kernel: tf.random.normal([]))
    assert "\nthe loss: " in refusal(trainer_of(penalised))


PYTHON = {
    "py_function": lambda x, training: tf.ensure_shape(tf.py_function(lambda y: y + 1, [x], tf.float32), x.shape),
    "numpy_function": lambda x, training: tf.ensure_shape(tf.numpy_function(lambda y: y + 1, [x], tf.float32), x.shape),
}


class Counts(keras.metrics.Mean):
    """A metric that counts its batches where no checkpoint looks."""

    def __init__(self, variable: tf.Variable) -> None:
        super().__init__()
        self._counted = [lambda: variable]  # which Keras does not find

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(counting(self._counted[0](), tf.reduce_mean(y_pred)))


class Warming(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, variable: tf.Variable) -> None:
        self._variable = variable

    def __call__(self, step):
        return 0.01 / counting(self._variable, tf.constant(1.0))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("layer 'counter'", lambda v: {"model": model_with(Does(lambda x, training: counting(v, x), name="counter"))}),
        (
            "layer 'outer'",
            lambda v: {
                "model": model_with(
                    keras.Sequential([Does(lambda x, training: counting(v, x), name="outer")], name="inner")
                )
            },
        ),
        ("the loss", lambda v: {"loss": lambda y, x: counting(v, tf.reduce_mean(x))}),
        ("the metrics", lambda v: {"metrics": {"counts": Counts(v)}}),
        ("the step", lambda v: {"optimizer": keras.optimizers.SGD(Warming(v))}),
    ],
)
def test_a_variable_that_is_not_saved_is_refused_wherever_it_is_written(place, options):
    message = refusal(trainer_of(**options(tf.Variable(0.0, name="count"))))
    assert f"{place}: AssignAddVariableOp changes the variable 'count'" in message and "self.add_weight" in message


def test_a_variable_of_keras_outside_of_a_layer_is_refused_too():
    variable = keras.Variable(0.0, name="count")
    message = refusal(trainer_of(loss=lambda y, x: counting(variable, tf.reduce_mean(x))))
    assert "the loss: " in message and "variable 'count'" in message


class Recurrent(keras.Model):
    def __init__(self, rnn):
        super().__init__()
        self.inner = keras.Sequential([layers.Reshape((2, 2)), rnn, layers.Dense(1)])

    def call(self, inputs):
        return self.inner(inputs)


def test_a_stateful_rnn_is_refused():
    """Its states are in no list of variables; a subclassed model has made them for one example, its first call's."""
    rnn = layers.LSTM(3, stateful=True)
    model = model_with(layers.Reshape((2, 2)), rnn, batch_size=BATCH)
    own = Recurrent(layers.GRU(3, stateful=True, name="gru"))
    own(tf.zeros([1, *model.input_shape[1:]]))
    for made, name in ((model, "lstm"), (own, "gru")):
        with pytest.raises(ValueError, match=f"layer '{name}' goes on from the batch before"):
            trainer_of(model=made).fit(data(), epochs=1)


def test_a_table_that_is_written_is_refused():
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, default_value=0.0)

    def remember(inputs, training):
        table.insert(tf.constant([1], tf.int64), tf.reduce_sum(inputs)[None])
        return inputs

    message = refusal(trainer_of(Does(remember, name="memory")))
    assert "layer 'memory': LookupTableInsertV2 changes what it is given" in message and "looked up" in message


def test_what_else_is_stateful_is_refused():
    drawn = iter(tf.data.Dataset.range(1000))
    read = refusal(trainer_of(Does(lambda x, training: x + tf.cast(next(drawn), tf.float32))))
    assert "IteratorGetNext goes on in what it reads" in read and "belongs in the data" in read and "table" not in read
    assert "Timestamp" in refusal(trainer_of(Does(lambda x, training: x + tf.cast(tf.timestamp(), tf.float32))))


def test_every_effect_is_in_one_message_with_its_way_out():
    message = refusal(trainer_of(*(Does(function, name=kind) for kind, function in PYTHON.items()), OwnGenerator()))
    for kind in PYTHON:
        assert f"layer {kind!r}: " in message
    assert all(word in message for word in ("runs Python code", "stateful=False", "'noise'", "SeedGenerator"))


def test_a_transform_of_the_data_is_part_of_the_step():
    noisy = InMemory(
        *(np.zeros([8, SIZE], np.float32), np.zeros(8, np.int32)),
        batch_size=4,
        prepare=lambda x, y, epoch, index: (x + tf.random.normal(tf.shape(x)), y),
    )
    with pytest.raises(ValueError, match="the step: RandomStandardNormal draws random numbers"):
        trainer_of().fit(noisy, epochs=1)


def harmless(inputs, training):
    tf.debugging.assert_all_finite(inputs, "finite")
    tf.debugging.Assert(tf.size(inputs) > 0, ["empty"])
    tf.print("seen", output_stream="file:///dev/null")
    tf.summary.scalar("seen", tf.reduce_sum(inputs), step=0)
    rows = tf.map_fn(lambda row: row + 1, inputs)
    rows = rows + tf.random.stateless_normal(tf.shape(rows), seed=[1, 2]) + fractional_pooling(deterministic=True)
    return tf.debugging.check_numerics(rows, "finite") + tf.ensure_shape(
        tf.numpy_function(np.tanh, [inputs], tf.float32, stateful=False), inputs.shape
    )


class Teacher(layers.Layer):
    """Frozen weights that no checkpoint holds: no step changes them."""

    def __init__(self) -> None:
        super().__init__()
        self._teacher = [lambda: teacher]
        teacher = keras.Sequential([keras.Input((SIZE,)), layers.Dense(SIZE), layers.BatchNormalization()])

    def call(self, inputs):
        return inputs + self._teacher[0]()(inputs, training=False)


def looks_up():
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0, 1], [1.0, 2.0], tf.int64), 0.5)
    strings = layers.StringLookup(vocabulary=["0", "1"])
    return Does(
        lambda x, training: (
            x + table.lookup(tf.cast(x, tf.int64)) + tf.cast(strings(tf.as_string(tf.cast(x, tf.int32))), tf.float32)
        )
    )


class Noisy(layers.Layer):
    """As the refusal says how to do it."""

    def __init__(self) -> None:
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs + 0.1 * keras.random.normal(tf.shape(inputs), seed=self.seed_generator) / self.calls


def usual_layers() -> list[layers.Layer]:
    return [layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.BatchNormalization()]


RESUMABLE = {
    "layers": lambda: {
        "model": model_with(
            *(Does(harmless), Teacher(), looks_up(), Noisy(), *usual_layers()),
            layers.SpectralNormalization(layers.Dense(SIZE)),
        )
    },
    "averages and float16": lambda: {
        "model": model_with(*usual_layers()),
        "optimizer": keras.optimizers.Adam(1e-2, use_ema=True, name="adam"),
        "loss_scaling": True,
    },
    "parts": lambda: {"model": model_with(*usual_layers()), "gradient_accumulation_steps": 2},
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", RESUMABLE)
def test_what_a_checkpoint_holds_resumes_exactly_and_validation_changes_nothing(kind, tmp_path):
    def fitted(epochs, folder, val):
        keras.utils.set_random_seed(0)  # of what the teacher is
        trainer = trainer_of(**RESUMABLE[kind]())
        Checkpoints(tmp_path / folder).restore(trainer.state)
        trainer.fit(data(), val, epochs=epochs)
        Checkpoints(tmp_path / folder).save(trainer.state)
        return [v.numpy() for v in trainer.state.all_variables()]

    straight = fitted(2, "straight", None)
    fitted(1, "resumed", data(2 * BATCH))
    for a, b in zip(fitted(2, "resumed", None), straight, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_evaluation_changes_no_state_of_training_and_repeats_itself():
    trainer = trainer_of(Noisy())
    before = [v.numpy() for v in trainer.state.all_variables()]
    assert trainer.evaluate(data()) == trainer.evaluate(data())
    trainer.evaluate_outputs(lambda inputs: trainer.model(inputs), data())
    for v, value in zip(trainer.state.all_variables(), before, strict=True):
        np.testing.assert_array_equal(v, value)


def test_what_is_random_at_inference_alone_is_refused_there_and_before_the_first_step():
    trainer = trainer_of(Does(lambda x, training: x if training else x + tf.random.normal([]), name="noise"))
    for call in (trainer.evaluate, lambda val: trainer.fit(data(), val, epochs=1)):
        with pytest.raises(ValueError, match="layer 'noise': RandomStandardNormal draws random numbers"):
            call(data())
    assert trainer.state.step == 0


def test_a_variable_that_is_only_read_must_be_the_same_after_an_interruption(tmp_path):
    """As one that is drawn without a seed when the model is built; one of a file or a seed is."""

    def fitted(epochs, values):
        noise = tf.Variable(values, trainable=False, name="noise")
        trainer = trainer_of(Does(lambda x, training: x + noise))
        Checkpoints(tmp_path).restore(trainer.state)
        trainer.fit(data(), epochs=epochs)
        Checkpoints(tmp_path).save(trainer.state)

    fitted(1, [0.5] * SIZE)
    fitted(2, [0.5] * SIZE)
    with pytest.raises(ValueError, match="noise: a variable that training reads and no checkpoint holds"):
        fitted(3, [0.25] * SIZE)


@pytest.mark.parametrize("op", sorted(HARMLESS))
def test_a_harmless_op_holds_nothing(op):
    """Each on the list is called stateful by TensorFlow, has no resource, and gives the same twice."""
    alone = {"group_size": 1, "instance_key": 1, "ordering_token": []}
    calls = {
        "Assert": lambda: tf.raw_ops.Assert(condition=True, data=["text"]),
        "PrintV2": lambda: tf.raw_ops.PrintV2(input="text", output_stream="file:///dev/null"),
        "CheckNumerics": lambda: tf.raw_ops.CheckNumerics(tensor=[1.0], message="text"),
        "CheckNumericsV2": lambda: tf.raw_ops.CheckNumericsV2(tensor=[1.0], message="text"),
        "StatelessRandomGetAlg": lambda: tf.raw_ops.StatelessRandomGetAlg(),
        "CollectiveGatherV2": lambda: tf.raw_ops.CollectiveGatherV2(input=[1.0], group_key=1, **alone),
        "CollectiveReduceV2": lambda: tf.raw_ops.CollectiveReduceV2(
            input=[1.0], group_key=2, merge_op="Add", final_op="Id", **alone
        ),
    }

    @tf.function
    def call():
        result = calls[op]()
        return tf.constant(0) if isinstance(result, tf.Operation) else result

    graph = call.get_concrete_function()
    (definition,) = [o.op_def for o in graph.graph.get_operations() if o.type == op]
    assert definition.is_stateful and side_effects(graph) == []
    np.testing.assert_array_equal(call(), call())


def test_reads_and_summaries_are_no_effects():
    ops, variable = tf.raw_ops, tf.Variable([[1.0, 2.0]])
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, default_value=0.0)
    event = {"writer": ops.SummaryWriter(), "step": 0}
    calls = {
        "ReadVariableOp": lambda: variable.read_value(),
        "ResourceGather": lambda: ops.ResourceGather(resource=variable.handle, indices=[0], dtype=tf.float32),
        "ResourceGatherNd": lambda: ops.ResourceGatherNd(resource=variable.handle, indices=[[0]], dtype=tf.float32),
        "VariableShape": lambda: ops.VariableShape(input=variable.handle),
        "VarIsInitializedOp": lambda: ops.VarIsInitializedOp(resource=variable.handle),
        "LookupTableFindV2": lambda: table.lookup(tf.constant([1], tf.int64)),
        "LookupTableSizeV2": lambda: table.size(),
        "LookupTableExportV2": lambda: table.export(),
        "WriteSummary": lambda: ops.WriteSummary(**event, tensor=1.0, tag="tag", summary_metadata=""),
        "WriteScalarSummary": lambda: ops.WriteScalarSummary(**event, tag="tag", value=1.0),
        "WriteHistogramSummary": lambda: ops.WriteHistogramSummary(**event, tag="tag", values=[1.0]),
        "WriteImageSummary": lambda: ops.WriteImageSummary(
            **event, tag="tag", tensor=tf.zeros([1, 1, 1, 1]), bad_color=tf.zeros([1], tf.uint8)
        ),
        "WriteAudioSummary": lambda: ops.WriteAudioSummary(**event, tag="tag", tensor=[[[0.0]]], sample_rate=8e3),
        "WriteRawProtoSummary": lambda: ops.WriteRawProtoSummary(**event, tensor=""),
        "FlushSummaryWriter": lambda: ops.FlushSummaryWriter(writer=event["writer"]),
    }
    assert set(calls) == READS | SUMMARIES
    for op, call in calls.items():

        def read_or_write(call=call):
            call()  # of some the result is an operation, which a graph does not return

        graph = tf.function(read_or_write, autograph=False).get_concrete_function()
        assert op in [node.type for node in graph.graph.get_operations()]
        assert side_effects(graph) == [], op


def test_a_write_is_followed_through_what_passes_its_variable_on():
    variable = tf.Variable(0.0)

    def write(handle):
        tf.raw_ops.AssignAddVariableOp(resource=handle, value=1.0)
        return tf.constant(0)

    ways = {
        "alone": lambda handle: write(handle),
        "identity": lambda handle: write(tf.identity(handle)),
        "several": lambda handle: write(tf.raw_ops.IdentityN(input=[tf.constant(0), handle])[1]),
        "function": lambda handle: tf.function(write)(handle),
        "returned": lambda handle: write(tf.function(lambda handle: (tf.constant(0), handle))(handle)[1]),
        "branch": lambda handle: tf.cond(tf.constant(True), lambda: write(handle), lambda: 0),
        "case": lambda handle: tf.switch_case(tf.constant(0), [lambda: write(handle), lambda: 0]),
        "loop": lambda handle: tf.while_loop(lambda i: i < 2, lambda i: [i + 1 + write(handle)], [0]),
    }
    for kind, way in ways.items():
        graph = tf.function(lambda way=way: way(variable.handle), autograph=False).get_concrete_function()
        (effect,) = side_effects(graph)
        assert effect.op == "AssignAddVariableOp" and effect.resource is variable.handle, kind


def test_functions_that_any_op_calls_are_looked_into():
    def call():
        return tf.data.Dataset.range(2).map(lambda i: tf.random.uniform([])).reduce(0.0, tf.add)

    graph = tf.function(call, autograph=False).get_concrete_function()
    assert "RandomUniform" in {effect.op for effect in side_effects(graph)}


@pytest.mark.parametrize(("dropout", "effects"), [(0.0, 0), (0.5, 1)])
def test_the_layers_of_cudnn_are_random_by_their_dropout_alone(dropout, effects):
    @tf.function
    def call(x):
        zeros = tf.zeros([1, 2, 3])
        return tf.raw_ops.CudnnRNN(input=x, input_h=zeros, input_c=zeros, params=tf.zeros([100]), dropout=dropout)[0]

    assert len(side_effects(call.get_concrete_function(tf.zeros([4, 2, 3])))) == effects


def test_the_check_makes_no_graph_of_its_own():
    made = []

    def note(inputs, training):
        if not isinstance(inputs, keras.KerasTensor):
            made.append(training)
        return inputs

    trainer = trainer_of(Does(note))
    made.clear()
    trainer.fit(data(), data(), epochs=2)
    assert made == [True, False]


class Mine(keras.Model):
    pass


@pytest.mark.sample(2)
@pytest.mark.parametrize("method", ["train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"])
@pytest.mark.parametrize("base", [keras.Model, keras.Sequential])
def test_a_model_that_steps_by_itself_is_refused(method, base):
    mine = type("Mine", (base,), {method: lambda self, *args, **kwargs: None})
    inputs, dense = keras.Input((SIZE,)), layers.Dense(CLASSES)
    model = mine([inputs, dense]) if base is keras.Sequential else mine(inputs, dense(inputs))
    with pytest.raises(ValueError, match=rf"Mine has its own {method}, .*keras.Model\(inputs, mine\(inputs\)\)"):
        trainer_of(model=model).fit(data(), epochs=1)


def test_an_inner_model_may_step_by_itself_and_a_single_one_may_not():
    mine = type("Mine", (keras.Model,), {"train_step": lambda self, *args: None})
    inputs = keras.Input((SIZE,))
    model = keras.Model(inputs, mine(inputs, layers.Dense(CLASSES)(inputs))(inputs))
    trainer_of(model=model).fit(data(), epochs=1)
    model.compute_loss = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="Functional has its own compute_loss"):
        trainer_of(model=model).fit(data(), epochs=1)


def test_a_model_of_a_class_of_its_own_that_overrides_nothing_trains():
    inputs = keras.Input((SIZE,))
    trainer_of(model=Mine(inputs, layers.Dense(CLASSES)(inputs))).fit(data(), epochs=1)


class AddsLoss(layers.Layer):
    def call(self, inputs):
        self.add_loss(0.3 * tf.reduce_mean(tf.abs(inputs)))
        return inputs


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "layer",
    [
        lambda: AddsLoss(),
        lambda: layers.Dense(SIZE, activity_regularizer=keras.regularizers.L2(0.1), kernel_regularizer="l2"),
        lambda: keras.Sequential([layers.Dense(SIZE, activity_regularizer="l2")]),
    ],
)
def test_losses_that_layers_add_are_those_of_keras(layer):
    trainer = trainer_of(layer())
    split, inputs = data(10), np.concatenate([next_batch(data(10), i)[0] for i in range(3)])
    labels = np.concatenate([next_batch(data(10), i)[1] for i in range(3)])
    trainer.model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = trainer.model.evaluate(inputs, labels, batch_size=BATCH, verbose=0)
    found = [trainer.evaluate(split) for _ in range(2)]
    trainer.state.predict(inputs)  # leaves the losses of another graph behind
    graph = trainer.state.inference
    found.append(trainer.evaluate_outputs(lambda x: graph(x), split))
    assert [result["loss"] for result in found] == [pytest.approx(expected, rel=1e-5)] * 3
    trainer.fit(split, split, epochs=1)


def next_batch(split: InMemory, step: int) -> list[np.ndarray]:
    return [part.numpy() for part in split.next(split.open(0, 0), tf.constant(step))]
