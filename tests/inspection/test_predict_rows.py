"""Rows of files as a model takes them, or a message: no value in place of another."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from src import build
from src.callbacks.export import export_any
from src.common.errors import ConfigError
from src.data.data import Data, DataError
from src.data.sequences import windows
from src.inspection.predict_rows import inputs_of, predict_rows
from src.models.table_mlp import table_mlp
from src.training.trainer import Trainer

TAKES = {"a_b": tf.TensorSpec([None], tf.float32), "n": tf.TensorSpec([None], tf.int32)}
WORDS = {"word": tf.TensorSpec([None], tf.string)}


def written(file, columns):
    if file.suffix == ".npz":
        np.savez(file, **columns)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in columns), encoding="utf-8-sig")
    return file


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a b": [1.0], "n": [3.7]}, "row 1: n has 3.7, which is no int32"),
        ({"a b": [1.0, 2.0], "n": [1, 2**32 + 1]}, "row 2: n has 4294967297, which is no int32"),
        ({"a b": [0, np.inf], "n": [3, 3]}, "row 2: a_b has an infinite value"),
        ({"a b": [1.0], "a_b": [2.0], "n": [3]}, "has a b and a_b for a_b"),
        ({"a b": np.array(["2020-01-01"], "datetime64[D]"), "n": [1]}, r"a_b is of datetime64\[D\]"),
        ({"b": [1.0], "n": [3]}, "has no a_b; the model takes"),
        ({"a b": ["1", "1_0"], "n": [3, 3]}, r"new.npz, row 2: a_b is no float32 \(it has '1_0'\)"),
    ],
)
def test_what_a_model_does_not_take_is_refused(columns, message, tmp_path):
    with pytest.raises(DataError, match=message):
        inputs_of(written(tmp_path / "new.npz", columns), TAKES)


def test_lines_are_those_that_a_line_feed_ends_and_rows_may_have_other_orders(tmp_path):
    rows = [{"a b": "1", "n": 2.0, "more": 0}, {"n": 3, "a b": 4}]
    found = inputs_of(written(tmp_path / "new.jsonl", rows), TAKES)
    assert found["a_b"].tolist() == [1.0, 4.0] and found["n"].tolist() == [2, 3]
    (tmp_path / "new.txt").write_text("one\u2028line\ntwo\n")
    assert inputs_of(tmp_path / "new.txt", WORDS)["word"].tolist() == ["one\u2028line", "two"]
    assert inputs_of(written(tmp_path / "new.jsonl", [{"word": 3.0}]), WORDS)["word"].tolist() == ["3"]


@pytest.mark.parametrize("others", [["x"], [None]], ids=["text", "missing"])
def test_a_value_beside_a_text_is_the_text_that_it_was_in_training(others, tmp_path):
    """Whether something stands for missing values or not."""
    file, fillings = tmp_path / "new.jsonl", {"word": "x"}
    written(file, [{"word": word} for word in [3, 3.0, 0.5, *others]])
    assert inputs_of(file, WORDS, fillings=fillings)["word"].tolist() == ["3", "3", "0.5", "x"]
    for strange, said in ((True, "true"), ({"a": 1}, r'{"a": 1}'), ([1], r"\[1\]")):
        written(file, [{"word": word} for word in [strange, *others]])
        with pytest.raises(DataError, match=f"row 1: word is no text \\(it has {said}\\)"):
            inputs_of(file, WORDS, fillings=fillings)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_words_for_what_is_missing_are_words_where_people_write(suffix, tmp_path):
    file, words = tmp_path / f"new{suffix}", ["NA", "None", "nan"]
    if suffix == ".jsonl":
        written(file, [{"text": word} for word in words])
    else:
        file.write_text("".join(f"{word}\n" for word in [*(["text"] if suffix == ".csv" else []), *words]))
    takes = {"inputs": WORDS["word"]}
    assert inputs_of(file, takes, aliases={"text": "inputs"})["inputs"].tolist() == words
    with pytest.raises(DataError, match="row 1: inputs is missing"):
        inputs_of(written(file.with_suffix(".jsonl"), [{"inputs": "NA"}]), takes)
    with pytest.raises(DataError, match="row 2: inputs is missing"):
        inputs_of(
            written(file.with_suffix(".jsonl"), [{"text": "NA"}, {"text": None}]), takes, aliases={"text": "inputs"}
        )


def test_a_line_has_the_number_that_editors_give_it(tmp_path):
    file = tmp_path / "new.jsonl"
    for lines, said in (
        ('\n{"word": "a"}\n\n{"word": \n', r"line 4 is no JSON \(Expecting value, column"),
        ('\n{"word": "a"}\n\n{"other": 1}\n', "line 4 has no word"),
        ('\n\n{"other": 1}\n', "line 3 has other"),
    ):
        file.write_text(lines)
        with pytest.raises(DataError, match=said):
            inputs_of(file, WORDS)


def test_a_whole_number_is_not_rounded(tmp_path):
    (tmp_path / "new.csv").write_text(f"n\n{2**53 + 1}\n")
    with pytest.raises(DataError, match="n has 9007199254740993, which is no int64"):
        inputs_of(tmp_path / "new.csv", {"n": tf.TensorSpec([None], tf.int64)})
    np.savez(tmp_path / "new.npz", n=[2**53 + 1])
    assert inputs_of(tmp_path / "new.npz", {"n": tf.TensorSpec([None], tf.int64)})["n"].tolist() == [2**53 + 1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz"])
def test_what_stood_for_missing_values_in_training_does_so_again(suffix, tmp_path):
    file = tmp_path / f"new{suffix}"
    if suffix == ".csv":
        file.write_text("a b,n,word\n1,2,x\n,,\n")
    elif suffix == ".jsonl":
        written(file, [{"a b": 1, "n": 2, "word": "x"}, {"a b": None, "n": None, "word": ""}])
    else:
        np.savez(file, **{"a b": [1.0, np.nan], "n": [2.0, np.nan], "word": ["x", ""]})
    takes = {**TAKES, **WORDS}
    found = inputs_of(file, takes, fillings={"a_b": 7, "n": 3, "word": "none"})
    assert {name: values.tolist() for name, values in found.items()} == {
        "a_b": [1, 7],
        "n": [2, 3],
        "word": ["x", "none"],
    }
    with pytest.raises(DataError, match="row 2: n is missing"):
        inputs_of(file, takes, fillings={"a_b": 7, "word": "none"})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_has_the_name_that_it_had_in_training(suffix, tmp_path):
    file, takes = tmp_path / f"new{suffix}", {"inputs": WORDS["word"]}
    file.write_text("label,message\na,one\n" if suffix == ".csv" else '{"label": "a", "message": "one"}\n')
    assert inputs_of(file, takes, aliases={"message": "inputs"})["inputs"].tolist() == ["one"]
    with pytest.raises(DataError, match=r"has no text or inputs; .* it has label|line 1 has label, message; the model"):
        inputs_of(file, takes, aliases={"text": "inputs"})


def trainer_of(model, loss):
    return Trainer(model=model, optimizer=keras.optimizers.SGD(0.1), loss=loss)


def test_columns_of_any_name_are_exported_and_predicted(tmp_path):
    columns = {"Lot Area": np.arange(8, dtype=np.float32), "1st": np.array(["x", "y"] * 4)}
    data = Data(train=(columns, np.arange(8, dtype=np.float32)), batch_size=8, seed=0)
    model = table_mlp(data=data, num_outputs=1)
    state = trainer_of(model, keras.losses.MeanSquaredError()).state
    state.input_spec = data.train.element_spec[0]
    export_any(state, data, tmp_path / "1")
    (tmp_path / "new.csv").write_text("1st,Lot Area\nx,3\ny,5\n")
    lines = predict_rows(tmp_path / "1", [tmp_path / "new.csv"], output=tmp_path, class_names=[]).read_text()
    wanted = model({"Lot Area": tf.constant([3.0, 5.0]), "1st": tf.constant(["x", "y"])})
    np.testing.assert_allclose([json.loads(line)["outputs"] for line in lines.splitlines()], wanted, rtol=1e-5)


def test_categories_that_training_never_saw_are_named(tmp_path, capsys):
    columns = {"size": np.arange(9, dtype=np.float32), "the city": np.array(["Bern", "Basel", "Chur"] * 3)}
    data = Data(train=(columns, np.arange(9, dtype=np.float32)), batch_size=8, seed=0)
    state = trainer_of(table_mlp(data=data, num_outputs=1), keras.losses.MeanSquaredError()).state
    state.input_spec = data.train.element_spec[0]
    export_any(state, data, tmp_path / "1")
    file, options = tmp_path / "new.csv", {"output": tmp_path, "class_names": []}
    for cities, told in (
        (["Bern", "Chur", "Basel"], None),
        (["Bern", *["Luzern"] * 300, "Chur", "bern", "Luzern"], "the_city has 'Luzern', 'bern'; the model"),
    ):
        file.write_text("the city,size\n" + "".join(f"{city},{i}\n" for i, city in enumerate(cities)))
        assert len(predict_rows(tmp_path / "1", [file], **options).read_text().splitlines()) == len(cities)
        warning = capsys.readouterr().err
        assert (told in warning and warning.count("\n") == 1) if told else not warning
    file.write_text("the city,size\n,1\n")
    predict_rows(tmp_path / "1", [file], fillings={"the_city": "unknown"}, **options)
    assert "the_city has 'unknown'; the model gives the same for any category" in capsys.readouterr().err


def test_a_model_that_refuses_words_that_it_does_not_know_predicts_all_the_same(tmp_path, capsys):
    word = keras.Input((), dtype="string", name="word")
    known = keras.layers.StringLookup(vocabulary=["x", "y"], num_oov_indices=0)(word)
    model = keras.Model({"word": word}, keras.layers.Dense(1)(keras.layers.Embedding(2, 3)(known)))
    data = Data(train=({"word": np.array(["x", "y"] * 4)}, np.arange(8, dtype=np.float32)), batch_size=8, seed=0)
    state = trainer_of(model, keras.losses.MeanSquaredError()).state
    state.input_spec = data.train.element_spec[0]
    export_any(state, data, tmp_path / "1")
    (tmp_path / "new.csv").write_text("word\nx\ny\n")
    lines = predict_rows(tmp_path / "1", [tmp_path / "new.csv"], output=tmp_path, class_names=[]).read_text()
    assert len(lines.splitlines()) == 2 and not capsys.readouterr().err


def test_probabilities_are_exported_as_they_are(tmp_path):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))
    given = np.arange(-4, 4, dtype=np.float32)[:, np.newaxis]
    data = Data(train=(given, np.arange(8) % 2), batch_size=8, seed=0, class_names=["no", "yes"])
    state = trainer_of(model, keras.losses.BinaryCrossentropy()).state
    state.input_spec = data.train.element_spec[0]
    found = tf.saved_model.load(str(export_any(state, data, tmp_path / "1"))).signatures["serving_default"](
        inputs=tf.constant(given)
    )
    np.testing.assert_array_equal(found["probabilities"], model(given))
    np.testing.assert_array_equal(found["class"], model(given)[:, 0] > 0.5)
    assert "logits" not in found and 0 < np.sum(found["class"]) < 8


def test_weights_of_other_words_are_not_taken():
    def of(words):
        data = Data(train=({"word": np.array(words)}, np.zeros(len(words), np.float32)), batch_size=8, seed=0)
        return table_mlp(data=data, num_outputs=1)

    build.take_weights(of(["x", "y"]), of(["x", "y"]), told="init_from=run")
    with pytest.raises(ConfigError, match=r"init_from=run: word.one_hot has another vocabulary there"):
        build.take_weights(of(["x", "y"]), of(["y", "z"]), told="init_from=run")


def test_what_follows_a_series_is_foreseen_from_its_last_rows_in_its_own_units(tmp_path):
    options = {"steps": 3, "horizon": 2, "batch_size": 8, "seed": 0}
    (tmp_path / "all.csv").write_text("time,wind,level\n" + "".join(f"{i}h,{i % 7},{i % 5}\n" for i in range(60)))
    data = windows(path=str(tmp_path / "all.csv"), columns=["level", "wind"], targets=1, **options)
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs[:, 1:]))
    state = trainer_of(model, keras.losses.MeanSquaredError()).state
    state.input_spec = data.train.element_spec[0]
    export_any(state, data, tmp_path / "1")
    (tmp_path / "new.csv").write_text("wind,level,time\n9,9,a\n1,2,b\n3,4,c\n5,6,d\n")
    given = np.array([[[2, 1], [4, 3], [6, 5]]], np.float32)
    np.save(tmp_path / "new.npy", [[9, 9], [2, 1], [4, 3], [6, 5]])
    wanted = data.answers(model(data.prepare(given)))["forecast"][0]
    for name, columns in (("new.csv", ["level", "wind"]), ("new.npy", None)):
        found = predict_rows(tmp_path / "1", [tmp_path / name], output=tmp_path, class_names=[], columns=columns)
        (row,) = map(json.loads, found.read_text().splitlines())
        assert sorted(row) == ["file", "forecast", "row"]
        np.testing.assert_allclose(row["forecast"], wanted, rtol=1e-5)
    (tmp_path / "short.csv").write_text("level,wind\n1,2\n")
    for name, columns, told in (
        ("short.csv", ["level", "wind"], "has 1 rows of level, wind; the model takes 3 rows of 2 features"),
        ("new.csv", ["level", "wind", "time"], "time is no float32"),
        ("new.csv", ["rain"], "has no column 'rain'"),
        ("new.csv", None, "which of its columns is which of the 2 features is not known"),
    ):
        with pytest.raises(DataError, match=told):
            predict_rows(tmp_path / "1", [tmp_path / name], output=tmp_path, class_names=[], columns=columns)


def test_a_number_that_an_embedding_has_no_row_for_is_told(tmp_path):
    data = Data(train=(np.arange(8, dtype=np.int32), np.zeros(8, np.float32)), batch_size=4, seed=0)
    inputs = keras.Input((), dtype="int32", name="word")
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Embedding(8, 2)(inputs)))
    state = trainer_of(model, keras.losses.MeanSquaredError()).state
    state.input_spec = data.train.element_spec[0]
    export_any(state, data, tmp_path / "1")
    file = written(tmp_path / "new.npz", {"inputs": [3, 8]})
    with pytest.raises(DataError, match=r"was given 8, and has rows, 0 to 7"):
        predict_rows(tmp_path / "1", [file], output=tmp_path, class_names=[])
