"""A record is whole at any moment, readable by any JSON reader, and its history without doubles."""

import json
import math
import multiprocessing
import time

import pytest

from src.runs.record import BadRecord, Record
from src.runs.record_schema import WrongValue


def rewrite(directory, seconds):
    record, number, end = Record(directory), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        record.update(status="running", step=number, padding="x" * (number % 50_000))


def test_a_reader_never_sees_half_a_record(tmp_path):
    Record(tmp_path).update(status="running", step=0)
    writer = multiprocessing.get_context("spawn").Process(target=rewrite, args=(tmp_path, 1.0))
    writer.start()
    steps = []
    while writer.is_alive():
        steps.append(Record(tmp_path).read()["step"])
    writer.join()
    assert writer.exitcode == 0
    assert steps == sorted(steps) and len(set(steps)) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_update_keeps_other_keys_and_returns_the_whole(tmp_path):
    record = Record(tmp_path / "new" / "run")
    assert record.read() is None and record.history() == []
    record.update(id="1a2b3c4d", status="running", step=3)
    assert record.update(status="completed") == record.read()
    assert json.loads(record.path.read_text()) == {"id": "1a2b3c4d", "status": "completed", "step": 3}


def test_a_failed_write_leaves_the_old_record(tmp_path):
    record = Record(tmp_path)
    record.update(status="running", step=3)
    with pytest.raises(TypeError):
        record.update(step=object())
    assert record.read()["step"] == 3 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_lacks_becomes_null(tmp_path, value):
    record = Record(tmp_path)
    record.update(status="running", metrics={"val/loss": value}, mine=[1.5, value])
    record.append_epoch({"epoch": 1, "val/loss": value})
    for text in (record.path.read_text(), record.history_path.read_text()):
        json.loads(text, parse_constant=pytest.fail)
    assert record.read()["metrics"] == {"val/loss": None} and record.read()["mine"] == [1.5, None]
    assert record.history() == [{"epoch": 1, "val/loss": None}]


@pytest.mark.parametrize("torn", ["", '{"epoch": 4, "st', '{"epoch"', "{"], ids=["whole", "value", "key", "brace"])
def test_history_is_cut_to_an_epoch_without_a_torn_line(tmp_path, torn):
    record = Record(tmp_path)
    for epoch in (1, 2, 3):
        record.append_epoch({"epoch": epoch, "step": 10 * epoch})
    with record.history_path.open("a") as file:
        file.write(torn)
    assert [values["epoch"] for values in record.history()] == [1, 2, 3]
    record.cut_history(epoch=2)
    record.append_epoch({"epoch": 3, "step": 30})
    lines = record.history_path.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_validations_are_cut_to_a_step_without_a_torn_line(tmp_path):
    record = Record(tmp_path)
    for step in (7, 14, 21):
        record.append_validation({"epoch": 1, "step": step, "val/loss": float("nan")})
    whole = record.validations_path.read_text()
    with record.validations_path.open("a") as file:
        file.write('{"epoch": 2, "st')
    record.cut_validations(step=14)
    record.append_validation({"epoch": 1, "step": 21, "val/loss": float("nan")})
    assert record.validations_path.read_text() == whole and not record.history_path.exists()


def test_cutting_no_history_makes_none(tmp_path):
    Record(tmp_path).cut_history(epoch=0)
    Record(tmp_path).cut_validations(step=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", "null", "\0\0\0"], ids=["empty", "torn", "list", "null", "zero"]
)
def test_a_damaged_record_is_named_with_the_way_out(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadRecord, match=r"run\.json .*; move .* away"):
        Record(tmp_path).read()


def test_an_unknown_status_is_a_mistake_of_ours(tmp_path):
    with pytest.raises(WrongValue, match="status"):
        Record(tmp_path).update(status="done")
    assert not list(tmp_path.iterdir())
