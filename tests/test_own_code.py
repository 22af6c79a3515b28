"""The commands of docs/own-code.md, each with the code and the option that stand before it there."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from src.config import targets
from tests.callbacks.reading import pixels, written
from tests.jobs import OWN_CODE, Job, own_code, own_targets, write_files
from tests.support.helpers import ROOT, only_run, train

COMMANDS = re.findall(
    r"^python -m src\.train (.*)$", OWN_CODE.read_text(encoding="utf-8").partition("\n## ")[2], re.MULTILINE
)  # those before are of a folder that tests/test_new.py makes
SMALL = ("epochs=3", "data.limit=0.3", "trainer.threads=1", "callback.export=null", "callback.images=null")


def trained(folder, command):
    """Its output, and the lines of its history."""
    done = train(*shlex.split(command), *SMALL, *write_files(folder, Job(command, "", own=True)), cwd=folder)
    assert done.returncode == 0, done.stderr
    history = (only_run(folder / "outputs" / "digits") / "history.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in history]


def command_of(word):
    (command,) = (command for command in COMMANDS if word in command)
    return command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_trains(command, tmp_path):
    done, history = trained(tmp_path, command)
    assert history and re.match(r"val/accuracy [01]\.\d+", done.stdout)


def test_the_callback_ends_the_training(tmp_path):
    done, history = trained(tmp_path, command_of("stop_at_loss").replace("loss=0.7", "loss=100"))
    assert len(history) == 1 and "the training loss is at most 100" in done.stderr


def test_the_callback_writes_a_number_and_a_picture_each_epoch(tmp_path):
    trained(tmp_path, command_of("callback=kernel"))
    found = written(only_run(tmp_path / "outputs" / "digits") / "summaries")
    numbers, pictures = found["train", "largest_weight"], found["train", "kernel"]
    assert [step for step, _ in numbers] == [step for step, _ in found["train", "loss"]]
    assert len(numbers) == len(pictures) == 3 and all(number > 0 for _, number in numbers)
    assert pixels(pictures[-1][1]).shape[:2] == (64, 128)  # 8 x 8 pixels, and units


def test_the_schedule_is_followed(tmp_path):
    _, history = trained(tmp_path, command_of("halving"))
    rates = [epoch["learning_rate"] for epoch in history]  # of an epoch's last step
    assert rates == pytest.approx([rates[0], rates[0] / 2, rates[0] / 4])


def test_the_learner_adds_to_the_loss(tmp_path):
    command = command_of("small_logits")
    losses = {share: trained(tmp_path / share, command.replace("0.1", share))[1][0]["val/loss"] for share in ("0", "9")}
    assert losses["9"] > losses["0"]


def test_the_page_lists_what_its_options_name(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "FILE", tmp_path / "targets.txt")
    targets.FILE.write_text(f"{(ROOT / 'conf' / 'targets.txt').read_text()}{own_targets()}")
    for name, text in own_code().items():
        if name.startswith("conf/"):
            content, group = yaml.safe_load(text), name.split("/")[1]
            targets.check_names(content if "@package _global_" in text else {group: content})
