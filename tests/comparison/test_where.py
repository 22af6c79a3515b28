"""--where keeps what its conditions hold for."""

from __future__ import annotations

import pytest

from src.common.errors import ConfigError
from src.comparison.where import select, values_before
from tests.comparison.made import make_run, rows_in


@pytest.fixture
def rows(tmp_path):
    make_run(tmp_path, "a", best=0.9, config={"model.dropout": 0.1, "model.norm": True})
    make_run(tmp_path, "b", best=0.8, optimizer="sgd", seed=1, config={"model.dropout": 0.5})
    make_run(tmp_path, "c", best=0.7, status="interrupted", seed=10)
    return rows_in(tmp_path)


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        (["optimizer=sgd"], "b"),
        (["optimizer!=sgd"], "ac"),
        (["optimizer.learning_rate=3e-3"], "ac"),
        (["learning_rate>0.01"], "b"),
        (["dropout<0.3"], "a"),
        (["dropout=null"], "c"),
        (["norm=true"], "a"),
        (["norm=True"], "a"),
        (["norm!=TRUE"], "bc"),
        (["optimizer<3"], ""),
        (["seed>=1", "status=completed"], "b"),
        (["seed=1.0"], "b"),
        (["val/accuracy>0.75"], "ab"),
        (["seconds<=2"], "a"),
        (["name=digits"], "abc"),
        (["name=cats"], ""),
    ],
)
def test_conditions(rows, conditions, kept):
    assert "".join(row.directory.name for row in select(rows, conditions)) == kept


def test_an_unknown_key_names_similar_ones(rows):
    with pytest.raises(ConfigError, match=r"no run has 'optimiser'. Did you mean optimizer\b"):
        select(rows, ["optimiser=adam"])
    with pytest.raises(ConfigError, match=r"--where adam: it must be KEY=VALUE"):
        select(rows, ["adam"])
    with pytest.raises(ConfigError, match=r"--where seed<abc: 'abc' is not a number, and < needs one"):
        select(rows, ["seed<abc"])


def test_where_no_run_matches_the_values_of_the_key_are_named(rows):
    assert values_before(rows, ["seed=7"]) == "seed is 0, 1, 10"
    assert values_before(rows, ["optimizer=adam", "dropout=0.5", "seed=0"]) == "model.dropout is 0.1, null"


def test_a_list_of_options_is_shown_and_asked_for_as_it_is_typed(tmp_path):
    make_run(tmp_path, "a", choices={"callback": ["default", "early_stopping"]}, typed=["callback=[default,x]"])
    make_run(
        tmp_path, "b", choices={"callback": "default"}, config={"data.size": [28, 28], "data.columns": ["a b", "c"]}
    )
    rows = rows_in(tmp_path)
    assert rows[0].settings["callback"] == "[default,early_stopping]"
    assert (rows[1].settings["data.size"], rows[1].settings["data.columns"]) == ("[28,28]", '["a b","c"]')
    for condition, kept in (
        ("callback=[default,early_stopping]", "a"),
        ("callback=default", "b"),
        ("size=[28,28]", "b"),
    ):
        assert "".join(row.directory.name for row in select(rows, [condition])) == kept
