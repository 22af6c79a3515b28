"""Tables for people: aligned whatever is in a cell, which is shown as it is."""

from __future__ import annotations

import io

import pytest

from src.common.spelling import did_you_mean
from src.common.text import print_table, short, table_lines


def test_columns_are_aligned_whatever_is_in_a_cell():
    rows = [("status", "best", "directory"), ("ok", "0.5", "runs/漢字"), ("a\nb", "12.25", "runs/[bold]x")]
    assert table_lines(rows, right=["best"]) == [
        *("status   best  directory", "ok        0.5  runs/漢字", "a b     12.25  runs/[bold]x")
    ]
    wide = [("漢字", "x"), ("a", "y")]
    assert table_lines(wide) == ["漢字  x", "a     y"], "two columns of a terminal each"


def test_a_table_is_printed_as_wide_as_it_is_and_without_markup():
    rows, stream = [("name", "path"), ("[red]x[/red]", "p" * 300)], io.StringIO()
    print_table(rows, stream, styles=["red"])
    assert stream.getvalue().splitlines() == table_lines(rows)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lr", "learning_rate"), ("lrr", "learning_rate"), ("lrate", "learning_rate"), ("wdecay", "weight_decay")],
)
def test_an_abbreviation_has_the_first_letter_of_each_word(word, meant):
    known = ["loss.from_logits", "learning_rate", "weight_decay", "batch_size"]
    assert did_you_mean(word, known) == f". Did you mean {meant}?"


@pytest.mark.parametrize("word", ["foo", "foo.bar", "bare", "lt", "bs.x", "wey"])
def test_what_has_only_some_letters_in_common_is_not_meant(word):
    assert did_you_mean(word, ["loss.from_logits", "learning_rate", "weight_decay", "batch_size"]) == ""


def test_a_number_of_many_digits_is_shown_by_six_and_a_seed_by_all():
    assert [short(text) for text in ("0.123456789", "1234567890", "[8,16,32,64]", "0.001")] == [
        *("0.123457", "1234567890", "[8,16,32,64]", "0.001")
    ]
