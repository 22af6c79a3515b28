"""Data of any kind: nests of inputs, targets and weights give the same batches however they are held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from src import build
from src.config import targets
from src.config.compose import compose
from src.data.data import Data, DataError
from src.data.kind import kind_of
from src.data.pipeline import as_batches
from src.data.prepared import MOST_OF_A_BATCH

COUNT = 11
AGES = np.arange(COUNT, dtype=np.float32)
INPUTS = {"age": AGES, "words": np.array([[f"word {i}", "é"] for i in range(COUNT)])}
TARGETS = (AGES.astype(np.int64), np.stack([AGES, -AGES], 1))
WEIGHTS = AGES / 10


class Rows(list):
    """Examples that are read one by one."""


def rows(parts):
    picked = [tf.nest.map_structure(lambda leaf, i=i: leaf[i], parts) for i in range(COUNT)]
    return Rows(picked)


def as_held(parts, how):
    held = {"arrays": lambda: parts, "rows": lambda: rows(parts), "dataset": lambda: dataset(parts)}
    return (held | {"batches": lambda: as_batches(dataset(parts).batch(4))})[how]()


def dataset(parts):
    return tf.data.Dataset.from_tensor_slices(parts)


def made(parts, how, **options):
    return Data(train=as_held(parts, how), val=as_held(parts, how), batch_size=4, **{"seed": 0, **options})


def read(batches, epoch=0, step=0):
    """The rest of an epoch as one batch, drawn in a graph."""
    draw, cursor = tf.function(batches.next, autograph=False), batches.open(epoch, step)
    drawn = [draw(cursor, tf.constant(number)) for number in range(step, batches.steps_per_epoch)]
    for batch in drawn:
        tf.nest.map_structure(lambda spec, leaf: assert_fits(spec, leaf), batches.element_spec, batch)
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, 0), *drawn)


def assert_fits(spec, leaf):
    assert spec.is_compatible_with(leaf), (spec, leaf)


def assert_same(ours, others):
    tf.nest.assert_same_structure(ours, others)
    for mine, other in zip(tf.nest.flatten(ours), tf.nest.flatten(others), strict=True):
        np.testing.assert_array_equal(mine.numpy(), tf.constant(other).numpy())


@pytest.mark.parametrize("how", ["arrays", "rows", "dataset"])
@pytest.mark.parametrize("parts", [(INPUTS,), (INPUTS, TARGETS), (INPUTS, TARGETS, WEIGHTS), (AGES, AGES, WEIGHTS)])
def test_nests_come_as_they_are_given_with_or_without_targets_and_weights(parts, how):
    data = made(parts, how)
    assert_same(read(data.val), parts)
    assert data.count("train") == COUNT and data.train.steps_per_epoch == 3
    tf.nest.assert_same_structure(data.train.element_spec, parts)
    assert data.stored_spec("val") == data.raw("val").element_spec == data.val.element_spec
    whole = read(data.train, epoch=3)
    assert_same(read(data.train, epoch=3, step=2), tf.nest.map_structure(lambda leaf: leaf[8:], whole))
    order = tf.nest.flatten(whole)[0].numpy().astype(int)
    assert sorted(order) == list(range(COUNT)) and list(order) != sorted(order), "shuffled"
    assert_same(whole, tf.nest.map_structure(lambda leaf: leaf[order], parts))
    if how != "dataset":  # which is shuffled by another rule
        assert_same(whole, read(made(parts, "rows" if how == "arrays" else "arrays").train, epoch=3))


def test_ragged_text_stays_ragged():
    words = tf.ragged.constant([["a"] * (i % 3) for i in range(COUNT)])
    for held in ((words, AGES), dataset((words, AGES))):
        data = Data(train=held, batch_size=4, seed=0, limit=0.5)
        assert isinstance(data.train.element_spec[0], tf.RaggedTensorSpec)
        inputs, numbers = read(data.train)
        assert inputs.to_list() == [words[int(i)].numpy().tolist() for i in numbers] and len(numbers) == 6


@pytest.mark.parametrize("how", ["arrays", "rows", "dataset"])
def test_a_share_is_the_same_however_examples_are_held(how):
    few, more = (sorted(read(made((AGES, AGES), how, limit=limit).train)[0].numpy()) for limit in (0.2, 0.5))
    assert set(few) < set(more) and len(few) == 3 and len(more) == 6
    assert few == sorted(read(made((AGES, AGES), "arrays", limit=0.2).train)[0].numpy())


def test_what_options_may_refer_to():
    data = made((INPUTS, TARGETS), "arrays", facts={"vocabulary": 7})
    of_classes = dict.fromkeys(["num_classes", "num_outputs", "ignore_label"]) | {"class_names": []}
    assert data.facts == {"input_shape": {"age": [], "words": [2]}, "vocabulary": 7, **of_classes}


class Halved(Data):
    def prepare(self, inputs):
        return inputs / 2

    def augment(self, inputs, targets, epoch, index):
        return inputs + tf.cast(index + 100 * epoch, tf.float32), targets


@pytest.mark.parametrize("how", ["arrays", "rows", "dataset", "batches"])
def test_a_kind_of_data_prepares_its_inputs_and_augments_training_alone(how):
    data = Halved(train=as_held((AGES, AGES), how), val=as_held((AGES, AGES), how), batch_size=4, seed=0)
    if how == "batches":  # whose indices are their own
        place = np.concatenate([np.arange(4), MOST_OF_A_BATCH + np.arange(4), 2 * MOST_OF_A_BATCH + np.arange(3)])
        assert_same(read(data.train, epoch=2), ((AGES / 2 + 200 + place).astype(np.float32), AGES))
        assert_same(read(data.train, epoch=2, step=1)[1], AGES[4:])
        assert_same(read(data.unaugmented())[0], AGES / 2)
        return check_stored(data)
    inputs, targets = read(data.train, epoch=2)
    assert_same(inputs, 200 + 1.5 * targets.numpy())
    check_stored(data)
    data.overfit(batches=1)
    assert_same(read(data.train)[0], AGES[:4] / 2)


def check_stored(data):
    assert_same(read(data.val)[0], AGES / 2)
    assert_same(read(data.raw("train"))[0], AGES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.repeat(), "number of examples is infinite"),
        (lambda data: data.filter(lambda *_: True), r"number of examples is unknown; .*as_batches\(dataset\.batch"),
        (lambda data: data.take(0), "number of examples is 0"),
    ],
)
def test_a_dataset_of_no_known_length_is_told_the_ways_out(change, told):
    for split, limit in (("train", None), ("train", 0.5), ("val", None)):
        splits = {"train": dataset((AGES, AGES)), split: change(dataset((AGES, AGES)))}
        with pytest.raises(ValueError, match=told):
            Data(**splits, batch_size=4, seed=0, limit=limit)


def test_elements_that_are_no_tuples_are_inputs():
    assert_same(read(Data(train=dataset(INPUTS), batch_size=4, seed=0, shuffle=False).train), (INPUTS,))


def test_batches_of_classes_have_targets_that_are_some():
    splits = {"batch_size": 4, "seed": 0, "class_names": ["no", "yes"]}
    with pytest.raises(DataError, match=r"has no targets: .*dataset\.map\(lambda row"):
        Data(train=as_batches(dataset({"x": AGES, "y": AGES}).batch(4)), **splits).check()
    pairs = dataset((AGES, AGES.astype(np.int64)))
    for train in (as_batches(pairs.batch(4)), pairs):
        with pytest.raises(DataError, match="the first batch of the train split has labels from 0 to 3"):
            Data(train=train, **splits).check()


def test_ragged_targets_are_looked_at_too():
    boxes = tf.RaggedTensor.from_row_lengths(np.array([[1.0, 2.0], [np.nan, 0.0]], np.float32), [1] + [0] * 9 + [1])
    with pytest.raises(DataError, match=r"targets\.boxes of the train split has NaN"):
        Data(train=(AGES, {"boxes": boxes}), batch_size=4, seed=0).check()


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((INPUTS, AGES[:5]), "11 inputs and 5 targets: all need the same number"),
        (({"a": AGES, "b": AGES[:5]},), "11/5 inputs: all need the same number"),
        ((AGES, AGES, AGES[:5]), "11 inputs and 11 targets and 5 weights"),
        ((AGES[:0],), "0 inputs: .* at least 1"),
    ],
)
def test_parts_of_several_lengths_are_refused(parts, told):
    with pytest.raises(ValueError, match=told):
        Data(train=parts, batch_size=4, seed=0)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a\nb", "c"], r"the name 'a\\nb'"),
        (["a", "b\u2028"], r"the name 'b\\u2028'"),
        (["a\x0bb"], r"the name 'a\\x0bb'"),
        (["", "b"], "the name ''"),
        (["a ", "b"], "the name 'a '"),
        (["\ta"], r"the name '\\ta'"),
        (["a", "b", "a"], "two classes have the name 'a'"),
        ([1, "1"], "two classes have the name '1'"),
    ],
)
def test_names_of_classes_are_lines_that_are_told_apart(names, told):
    with pytest.raises(ValueError, match=told):
        Data(train=(AGES, AGES.astype(int)), batch_size=4, seed=0, class_names=names)


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="split is 'test'; this data has train, val"):
        made((AGES,), "arrays").raw("test")


@pytest.mark.parametrize("parts", [(INPUTS,), (INPUTS, TARGETS, WEIGHTS)])
def test_a_dataset_of_batches_of_nests_is_taken_as_it_is(parts):
    batches = as_batches(dataset(parts).batch(4))
    assert_same(read(batches), parts)


@pytest.mark.parametrize("endless", [lambda data: data.repeat(), lambda data: data.filter(lambda *_: True)])
def test_epochs_of_an_endless_or_unknown_dataset_go_on_where_the_one_before_ended(endless):
    batches = as_batches(endless(dataset((AGES[:10], AGES[:10]))).batch(2), steps_per_epoch=3)
    seen = [number for epoch in range(4) for number in read(batches, epoch)[0].numpy()]
    assert seen == [number % 10 for number in range(24)]
    assert_same(read(batches, epoch=1, step=2)[0], np.float32([0, 1]))


@pytest.mark.parametrize(("seed", "told"), [(None, 1), (3, 0)])
def test_a_pipeline_of_ones_own_is_taken_as_it_is_and_told_where_it_does_not_repeat(seed, told, caplog):
    shuffled = dataset((INPUTS, TARGETS, WEIGHTS)).shuffle(COUNT, seed=seed, reshuffle_each_iteration=False)
    if seed is None:
        counted = itertools.count()  # tf.random repeats where another test has set a seed for all

        def changed(x, *y):
            age = tf.numpy_function(lambda: np.float32(next(counted)), [], tf.float32)
            return {**x, "age": tf.ensure_shape(age, [])}, *y

        shuffled = dataset((INPUTS, TARGETS, WEIGHTS)).map(changed)
    data = Data(train=as_batches(shuffled.batch(4)), val=dataset((INPUTS, TARGETS)), batch_size=1, seed=0)
    data.check()
    assert data.train.steps_per_epoch == 3 and data.count("train") == 3 and not data.is_in_memory("train")
    assert data.stored_spec("train") == data.train.element_spec
    with pytest.raises(ValueError, match=r"limit is 0\.5, and the train split is batches"):
        Data(train=as_batches(shuffled.batch(4)), batch_size=1, seed=0, limit=0.5)
    assert caplog.text.count("the train split gives other batches each time") == told and "val" not in caplog.text


INTS = np.arange(12).reshape(4, 3) % 2


@pytest.mark.parametrize(
    ("targets", "classes", "outputs", "score", "kind"),
    [
        (INTS[:, 0], 3, [None, 3], "softmax", "classes"),
        (INTS[:, :1], 3, [None, 3], "softmax", "classes"),
        (INTS, 4, [None, 3, 4], "softmax", "classes"),  # of each place
        (INTS, 3, [None, 3], "sigmoid", "labels"),  # columns of whole numbers
        (INTS.astype(np.float32), 3, [None, 3], "sigmoid", "labels"),
        (INTS[:, 0], 2, [None, 1], "sigmoid", "labels"),
        (INTS, 2, [None, 3, 1], "sigmoid", "classes"),
        (INTS[..., None], 2, [None, 3, 1], "sigmoid", "classes"),
        (INTS, 4, [None, 4], None, None),
        (INTS[:, 0], 3, [None, 1], None, None),
        (INTS.astype(np.float32), 0, [None, 3], None, "numbers"),
        (INTS[:, 0].astype(np.float32), 0, [None, 1], None, "numbers"),
        (INTS, 0, [None, 3], None, None),
    ],
)
def test_what_outputs_are_to_targets(targets, classes, outputs, score, kind):
    data = Data(train=(AGES[:4], targets), batch_size=2, seed=0, class_names=[*map(str, range(classes))])
    assert data.score(tf.TensorShape(outputs)) == score
    assert kind_of(data, data.train.element_spec, tf.TensorSpec(outputs)) == kind


OWN = """
import keras
import numpy as np

from src import build
from src.config import targets
from src.config.compose import compose
from src.data.data import Data


def houses(*, batch_size, seed):
    rooms = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    prices = rooms.sum(1, keepdims=True)
    splits = {"train": (rooms[:30], prices[:30]), "val": (rooms[30:], prices[30:])}
    return Data(**splits, batch_size=batch_size, seed=seed, facts={"num_classes": 1})


def line(*, input_shape, outputs):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Dense(outputs)(inputs))
"""
HOUSES = """_target_: mine_houses.houses
batch_size: ${batch_size}
seed: ${seed}
"""
OPTIONS = {
    "data/houses": HOUSES,
    "model/line": "_target_: mine_houses.line\ninput_shape: ${run.input_shape}\noutputs: ${run.num_classes}\n",
    "loss/squares": "_target_: keras.losses.MeanSquaredError\n",
    "metric/error": "error: {_target_: keras.metrics.MeanAbsoluteError}\n",
}


def test_a_function_that_returns_data_is_an_option_and_its_facts_stand_in_the_config(tmp_path, monkeypatch):
    (tmp_path / "mine_houses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    listed = tmp_path / "targets.txt"
    listed.write_text(targets.FILE.read_text() + "\ndata mine_houses\nmodel mine_houses\n")
    monkeypatch.setattr(targets, "FILE", listed)
    for name, text in OPTIONS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    words = ["data=houses", "model=line", "loss=squares", "metric=error", "monitor=val/error", "mode=min", "epochs=4"]
    cfg = compose([*words, "optimizer.learning_rate=0.1"], config_dir=str(tmp_path))
    data = build.build_data(cfg)
    trainer = build.build_trainer(cfg, data, run_dir=tmp_path / "run")
    assert trainer.fit(data.train, data.val, epochs=4).best.epoch > 1
