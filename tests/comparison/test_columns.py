"""A column is what was chosen; what follows from it is left out."""

from __future__ import annotations

import json

import pytest

from src.common.errors import ConfigError
from src.comparison.columns import differing, headers, metric_names, resolve
from tests.comparison.made import make_run, rewrite, rows_in


def columns(folder) -> list[str]:
    return differing(rows_in(folder))


def test_what_an_option_brings_has_no_column(tmp_path):
    for optimizer in ("adam", "sgd"):
        for seed in (0, 1):
            make_run(tmp_path, f"{optimizer}-{seed}", optimizer=optimizer, seed=seed)
    assert columns(tmp_path) == ["optimizer", "seed"]


def test_a_setting_that_was_swept_has_one(tmp_path):
    for optimizer in ("adam", "sgd"):
        for rate in (0.1, 0.2):
            make_run(tmp_path, f"{optimizer}-{rate}", optimizer=optimizer, config={"optimizer.learning_rate": rate})
    assert columns(tmp_path) == ["optimizer", "optimizer.learning_rate"]


def test_a_setting_that_was_typed_has_one_though_it_could_follow(tmp_path):
    rate = "optimizer.learning_rate"
    make_run(tmp_path, "adam")
    make_run(tmp_path, "sgd", optimizer="sgd", config={rate: 0.2}, typed=[f"{rate}=0.2"])
    assert columns(tmp_path) == ["optimizer", rate]


def test_what_the_data_brings_has_none(tmp_path):
    scenes = {"name": "digit_scenes", "monitor": "val/mean_iou"}
    make_run(tmp_path, "digits", choices={"metric": "accuracy"}, config={"metric.accuracy._target_": "A"})
    make_run(
        tmp_path,
        "scenes",
        choices={"data": "digit_scenes", "loss": "dice", "metric": "segmentation"},
        config={"data.image_size": 64, "metric.mean_iou._target_": "B", "loss.smooth": 1, "trainer.threads": 2},
        **scenes,
    )
    assert columns(tmp_path) == ["data"]


def test_runs_of_two_names_on_one_data_set_are_told_apart_by_name(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", name="other")
    assert columns(tmp_path) == ["name"]


def test_a_part_that_is_there_or_not_is_one_column(tmp_path):
    shift = {"data.transforms.shift._target_": "src.data.transforms.Shift", "data.transforms.shift.max_pixels": 1}
    make_run(tmp_path, "without")
    make_run(tmp_path, "with", config=shift)
    assert columns(tmp_path) == ["data.transforms.shift._target_"]
    assert headers(columns(tmp_path)) == {"data.transforms.shift._target_": "shift"}


def test_branches_are_told_apart_by_what_they_started_from(tmp_path):
    make_run(tmp_path, "parent")
    parent = {"parent.config_hash": "1234567890abcdef", "parent.step": 80, "parent.checkpoint": "cc"}
    make_run(tmp_path, "branch", config=parent)
    assert columns(tmp_path) == ["parent"]
    assert {row.settings.get("parent") for row in rows_in(tmp_path)} == {None, "12345678 at step 80"}


def test_older_records_say_what_was_typed(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, f"new-{seed}", seed=seed)
        old = make_run(tmp_path, f"old-{seed}", optimizer="sgd", seed=seed, typed=["++optimizer.momentum=0.5"])
        rewrite(old, choices=None, config=None)
    assert columns(tmp_path) == ["optimizer", "optimizer.momentum", "seed"]
    assert {row.settings.get("optimizer.momentum") for row in rows_in(tmp_path)} == {None, 0.5}


def test_metrics_are_the_monitored_ones_then_of_validation(tmp_path):
    make_run(tmp_path, "a")
    assert metric_names(rows_in(tmp_path)) == ["val/accuracy", "val/loss", "train/loss"]


def test_a_key_is_known_by_its_last_part_where_one_has_it():
    known = ["seed", "optimizer.learning_rate", "data.size", "model.size", "val/loss"]
    assert resolve("learning_rate", known) == "optimizer.learning_rate"
    assert resolve("val/loss", known) == "val/loss"
    with pytest.raises(ConfigError, match=r"size may be data\.size or model\.size: give the whole name"):
        resolve("size", known)
    with pytest.raises(ConfigError, match=r"no run has 'lerning_rate'\. Did you mean optimizer\.learning_rate\?$"):
        resolve("lerning_rate", known)
    with pytest.raises(ConfigError, match=r"Did you mean val/loss\?$"):
        resolve("los", known)
    with pytest.raises(ConfigError, match=r"no run has 'lr'\. Did you mean optimizer\.learning_rate\?$"):
        resolve("lr", known)
    with pytest.raises(ConfigError, match=r"there is seed, optimizer\.learning_rate"):
        resolve("zzz", known)


def test_a_reference_is_shown_as_what_it_resolves_to(tmp_path):
    """Typed in one run, in an option's file in another, as a number in a third; older records know what was typed."""
    rate, typed = "optimizer.learning_rate", ["optimizer.learning_rate=${optimizer.epsilon}"]
    epsilon = {"optimizer.epsilon": 0.5, rate: None}
    make_run(tmp_path, "typed", typed=typed, config=epsilon, derived={rate: 0.5, "data.batch_size": 32})
    make_run(tmp_path, "in a file", config=epsilon, derived={rate: 0.5, "data.batch_size": 32})
    make_run(tmp_path, "number", config={rate: 0.1}, derived={"data.batch_size": 32})
    make_run(tmp_path, "older", typed=typed, config=epsilon)
    make_run(tmp_path, "unknown", typed=["optimizer.learning_rate=${elsewhere}"], config=epsilon)
    for path in tmp_path.glob("*/run.json"):
        config = json.loads(path.read_text())["config"]
        rewrite(path.parent, config={key: value for key, value in config.items() if value is not None})
    rows = {row.directory.name: row.settings for row in rows_in(tmp_path)}
    assert {name: settings[rate] for name, settings in rows.items()} == {
        "typed": 0.5,
        "in a file": 0.5,
        "number": 0.1,
        "older": 0.5,
        "unknown": "${elsewhere}",
    }
    assert not any("data.batch_size" in settings for settings in rows.values()), "it follows, and no run says it"


def test_what_all_have_typed_as_a_reference_is_shown_too(tmp_path):
    rate = "optimizer.learning_rate"
    for value in (0.5, 0.25):
        config = {"optimizer.epsilon": value, rate: None}
        make_run(tmp_path, f"{value}", typed=[f"{rate}=${{optimizer.epsilon}}"], config=config, derived={rate: value})
    assert {row.settings.get(rate) for row in rows_in(tmp_path)} == {0.5, 0.25}
