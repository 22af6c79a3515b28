"""Tables, texts and series from files: what would come out otherwise than it stands there is refused."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from src.common.columns import column_names
from src.config.compose import ConfigError, compose
from src.data.data import Data, DataError
from src.data.sequences import characters, windows
from src.data.tables import read_table, table
from src.data.texts import texts
from src.models.table_mlp import table_mlp

ROWS = 40
OPTIONS = {"batch_size": 8, "seed": 0}
NUMBERS = np.arange(ROWS) + 0.5


def csv(folder, **columns):
    file = folder / "given.csv"
    rows = zip(*columns.values(), strict=True)
    file.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(file)


def npz(folder, **columns):
    np.savez(folder / "given.npz", **columns)
    return str(folder / "given.npz")


def examples(data):
    """All inputs and targets, of all splits."""
    parts = [data._examples[name] for name in data.splits()]
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


@pytest.mark.parametrize(
    ("written", "columns", "options", "message"),
    [
        (csv, {"a": range(2**24, 2**24 + ROWS), "y": NUMBERS}, {}, "a has whole numbers that float32 cannot tell"),
        (npz, {"a": np.arange(ROWS), "y": np.arange(ROWS) + 2**40}, {}, "y has whole numbers that float32 cannot"),
        (csv, {"a": ["?", *range(1, ROWS)], "y": NUMBERS}, {}, r"a has numbers and also '\?'.* \+data.kinds.a=cat"),
        (npz, {"a": np.datetime64("2020-01-01") + np.arange(ROWS), "y": NUMBERS}, {}, r"a is of datetime64\[D\]"),
        (npz, {"a": NUMBERS * 1j, "y": NUMBERS}, {}, "a is of complex128"),
        (npz, {"a": NUMBERS[:9], "y": NUMBERS}, {}, r"a \[9\], y \[40\]; all arrays must have the same number of rows"),
        (csv, {"a": NUMBERS, "y": ["p"] * ROWS}, {}, "target y has 'p' alone; classes are at least two"),
        (csv, {"a": NUMBERS, "w": NUMBERS - 9, "y": NUMBERS}, {"weight": "w"}, "weight w .* no numbers of at least 0"),
        (csv, {"1": NUMBERS, "2": NUMBERS}, {"target": "2"}, "the first line is of numbers"),
        (csv, {"y": NUMBERS}, {}, "no column beside y"),
        (
            csv,
            {"a": NUMBERS, "yield": NUMBERS},
            {"target": "yeild"},
            r"data.target: .* 'yeild'; .* Did you mean yield\?",
        ),
        (csv, {"a": NUMBERS, "y": NUMBERS}, {"columns": ["b"]}, "data.columns: .* has no column 'b'; it has a, y"),
        (csv, {"a": NUMBERS, "y": NUMBERS}, {"missing": {"b": 0}}, "data.missing: .* has no column 'b'"),
        (csv, {"a": range(2**60, 2**60 + ROWS), "y": NUMBERS}, {}, "a has whole numbers that float32 cannot tell"),
        (csv, {"a": ["1_0", *range(1, ROWS)], "y": NUMBERS}, {}, "a has numbers and also '1_0'"),
        (csv, {"a": ['"', *range(1, ROWS)], "y": NUMBERS}, {}, r"given.csv cannot be read as a table \(unexpected end"),
        (csv, {"a": ["x" * 2**18, *range(1, ROWS)], "y": NUMBERS}, {}, r"cannot be read as a table \(field larger"),
        (csv, {"a": NUMBERS, "y": ["1", "1.0"] * (ROWS // 2)}, {}, "one number written in several ways, among 1, 1.0"),
        (
            npz,
            {"a": NUMBERS[:0], "y": NUMBERS[:0]},
            {},
            r"a \[0\], y \[0\]; all arrays must have the same number of rows",
        ),
        (csv, {"a b": NUMBERS, "a-b": NUMBERS, "y": NUMBERS}, {}, "two of a b, a-b would be 'a_b'"),
    ],
)
def test_a_table_that_would_come_out_otherwise_is_refused(written, columns, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        table(path=written(tmp_path, **columns), **{"target": "y", **OPTIONS, **options}).check()


def test_another_kind_of_column_than_there_is_is_refused(tmp_path):
    file = csv(tmp_path, a=NUMBERS, y=NUMBERS)
    with pytest.raises(DataError, match=r"data.kinds.a is 'names'; it must be one of numbers, categories"):
        table(path=file, target="y", kinds={"a": "names"}, **OPTIONS)


def test_a_filled_class_is_that_class_and_classes_that_are_numbers_are_in_their_order(tmp_path):
    given = [["", "10", "9"][i % 3] for i in range(ROWS)]
    file = csv(tmp_path, a=NUMBERS, none=[""] * ROWS, y=given)
    data = table(path=file, target="y", columns=["a"], missing={"y": "9"}, **OPTIONS)
    inputs, targets = examples(data)
    assert data.class_names == ("9", "10")
    assert [data.class_names[i] for i in targets] == [given[int(a)] or "9" for a in inputs["a"]]


def test_a_category_has_one_text_whatever_its_dtype(tmp_path):
    found = [
        set(examples(table(path=file, target="y", kinds={"a": "categories"}, **OPTIONS))[0]["a"])
        for file in (
            npz(tmp_path, a=np.arange(ROWS) % 3.0, y=NUMBERS),
            csv(tmp_path, a=np.arange(ROWS) % 3, y=NUMBERS),
        )
    ]
    assert found == [{"0", "1", "2"}] * 2


def test_a_parquet_file_is_the_table_that_its_columns_are(tmp_path):
    pandas = pytest.importorskip("pandas", reason="of the extra `tables`")
    pytest.importorskip("pyarrow", reason="of the extra `tables`")
    columns = {
        "a": NUMBERS,
        "whole": pandas.array([None, *range(1, ROWS)], dtype="Int64"),
        "kind": pandas.Categorical(["x", "y"] * (ROWS // 2)),
        "flag": [True, False] * (ROWS // 2),
        "y": NUMBERS * 2,
    }
    file = tmp_path / "a.parquet"
    pandas.DataFrame(columns).set_index("a").to_parquet(file)
    assert sorted(column_names(file)) == sorted(columns) == sorted(read_table(file))
    with pytest.raises(DataError, match=r"1 of whole \(the first in row 1\); .*'\+data.missing=\{whole:20\}', or take"):
        table(path=str(file), target="y", **OPTIONS)
    inputs, targets = examples(table(path=str(file), target="y", missing={"whole": 0}, **OPTIONS))
    order = np.argsort(targets)
    np.testing.assert_array_equal(inputs["whole"][order], np.arange(ROWS))
    np.testing.assert_array_equal(inputs["a"] * 2, targets)
    assert inputs["kind"][order].tolist() == ["x", "y"] * (ROWS // 2)
    assert inputs["flag"][order].tolist() == [1, 0] * (ROWS // 2)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert column_names(tmp_path / "a.parquet") is None
    with pytest.raises(DataError, match=r"a\.parquet: Parquet needs .*install -c constraints.txt -e '\.\[tables\]'"):
        table(path=str(tmp_path / "a.parquet"), target="y", **OPTIONS)


def test_all_columns_with_missing_values_are_named_at_once_with_what_can_stand_for_them(tmp_path):
    gaps = {"size": ["", *range(1, ROWS)], "kind": ["a", "", *"b" * (ROWS - 2)], "same": NUMBERS}
    with pytest.raises(DataError) as refused:
        table(path=csv(tmp_path, **gaps, y=NUMBERS), target="y", **OPTIONS)
    assert str(refused.value).endswith(
        "values are missing: 1 of size (the first in row 1), 1 of kind (the first in row 2); give what stands for "
        "them, as '+data.missing={size:20,kind:unknown}', or take the rows without size or kind away"
    )
    with pytest.raises(DataError, match=r"1 of kind \(the first in row 2\); .*'\+data.missing=\{kind:unknown\}', or"):
        table(path=csv(tmp_path, **gaps, y=NUMBERS), target="y", missing={"size": 0, "kind": None}, **OPTIONS)
    file = csv(tmp_path, **gaps, y=["", "", *range(2, ROWS)])
    with pytest.raises(DataError, match=r"kind:unknown\}' and take the rows without y away$"):
        table(path=file, target="y", **OPTIONS)
    with pytest.raises(DataError, match=r"2 of y \(the first in row 1\); take the rows without y away$"):
        table(path=file, target="y", missing={"size": 0, "kind": "c"}, **OPTIONS)
    with pytest.raises(DataError, match=r"data.missing.size is 'mean', and size is a column of numbers .* median, 20$"):
        table(path=file, target="same", missing={"size": "mean", "kind": "c"}, columns=["size", "kind"], **OPTIONS)


@pytest.mark.parametrize(
    ("column", "is_named"),
    [
        ([f"2020-01-{i:02d}" for i in range(ROWS)], True),
        (np.arange(ROWS) + 1000, True),
        (["a", "b"] * (ROWS // 2), False),
        (NUMBERS**1.5, False),
    ],
)
def test_dates_and_ids_are_told(column, is_named, tmp_path, caplog):
    table(path=csv(tmp_path, a=["x", "y"] * (ROWS // 2), it=column, y=NUMBERS), target="y", **OPTIONS)
    assert ("it has 40 different values in 40 rows, as dates and ids have" in caplog.text) == is_named
    assert "a has" not in caplog.text


def test_a_series_is_of_the_columns_that_are_chosen(tmp_path):
    columns = {"time": [f"{i}h" for i in range(ROWS)], "wind": NUMBERS, "level": -NUMBERS}
    file, lengths = csv(tmp_path, **columns), {"steps": 3, "horizon": 1, "val_share": 0, "test_share": 0}
    with pytest.raises(DataError, match=r"row 1: time is '0h', .* as 'data.columns=\[wind,level\]'"):
        windows(path=file, **lengths, **OPTIONS)
    with pytest.raises(DataError, match=r"data.columns: .* has no column 'rain'; it has time, wind, level"):
        windows(path=file, columns=["rain"], **lengths, **OPTIONS)
    with pytest.raises(ConfigError, match=r"data.columns: .* has no column 'rain'"):
        compose(["data=windows", f"data.path={file}", "data.columns=[rain]"])
    raw = windows(path=file, columns=["level", "wind"], **lengths, **OPTIONS).raw("train")
    first = raw.next(raw.open(0, 0), tf.constant(0))[0][0]
    np.testing.assert_array_equal(first, [[-0.5, 0.5], [-1.5, 1.5], [-2.5, 2.5]])


@pytest.mark.parametrize("name", ["a.npz", "a.csv"])
def test_a_file_of_nothing_is_no_table(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"{name}"):
        table(path=str(tmp_path / name), target="y", **OPTIONS)


@pytest.mark.parametrize("array", [np.float32(1), NUMBERS[:0], np.array([["a", "b"]]), np.array(["2020"], "M8[Y]")])
def test_an_array_that_is_no_series_is_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=r"a.npy is \S+ \[.*\]; give numbers \[time, features\]"):
        windows(path=str(tmp_path / "a.npy"), steps=3, horizon=1, **OPTIONS)


def test_a_text_without_a_label_is_refused(tmp_path):
    file = csv(tmp_path, text=[f"text {i}" for i in range(ROWS)], label=["a", "b", "", *"c" * (ROWS - 3)])
    with pytest.raises(DataError, match="row 3 has no label"):
        texts(path=file, **OPTIONS)


def test_a_series_keeps_its_units_and_its_first_row(tmp_path):
    values = 5e-9 + 1e-9 * np.sin(np.arange(100))
    data = windows(path=csv(tmp_path, level=values), steps=3, horizon=1, **OPTIONS)
    (raw, targets), (scaled, _) = (
        batches.next(batches.open(0, 0), tf.constant(0)) for batches in (data.raw("train"), data.split("train"))
    )
    np.testing.assert_allclose(raw[0, :, 0], values[:3], rtol=1e-6)
    np.testing.assert_allclose(data.answers(targets)["forecast"][0], values[3:4, np.newaxis], rtol=1e-5)
    assert 0.5 < np.std(scaled) < 2 and 0.5 < np.std(data.inputs("train")) < 2
    for option in ({"val_share": 0.6, "test_share": 0.6},):
        with pytest.raises(DataError, match="leave nothing to train on"):
            windows(path=None, steps=3, horizon=1, **OPTIONS, **option)
        with pytest.raises(DataError, match="leave nothing to train on"):
            characters(path=None, length=3, **OPTIONS, **option)
    (tmp_path / "bare.csv").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match="the first line is of numbers"):
        windows(path=str(tmp_path / "bare.csv"), steps=3, horizon=1, **OPTIONS)


@pytest.mark.filterwarnings("error")
def test_columns_of_any_name_and_a_constant_one_make_a_model():
    ones = np.ones(ROWS, np.float32)
    columns = {"Lot Area": NUMBERS.astype(np.float32), "a/b": ones, "outputs": ones, "größe": np.array(["x", "y"] * 20)}
    model = table_mlp(data=Data(train=(columns, NUMBERS), **OPTIONS), num_outputs=1)
    given = {name: tf.constant(values[:2]) for name, values in columns.items()}
    first, other = model(given), model({**given, "a/b": tf.constant([1.1, 1.1])})
    assert np.all(first != other) and np.abs(first - other).max() < 50
