"""Plain lines in a log, a bar on a terminal."""

from __future__ import annotations

import io
import logging
import re

from rich.console import Console

from src.callbacks.progress import Progress
from src.data.pipeline import InMemory
from tests.test_trainer import Recorder, digits, small_trainer


def fit(console: Console, epochs: int = 2) -> Recorder:
    images, labels = digits(64)
    recorder = Recorder()
    progress = Progress(epochs=epochs, steps_per_epoch=4, every_steps=3, console=console)
    trainer = small_trainer(callbacks={"progress": progress, "recorder": recorder})
    trainer.fit(InMemory(images, labels, batch_size=16), epochs=epochs)
    return recorder


def test_lines(caplog):
    caplog.set_level(logging.DEBUG, "src")
    console = Console(file=io.StringIO(), force_terminal=False)
    recorder = fit(console)
    assert console.file.getvalue() == ""
    steps = re.findall(r"loss at step (\d+): (\S+)", caplog.text)
    assert [(int(step), float(loss)) for step, loss in steps] == [
        (step, float(f"{recorder.losses[step - 1]:.6g}")) for step in (3, 6)
    ]
    epochs = re.findall(r"epoch (\d+)/2 .*train/loss (\S+)", caplog.text)
    assert epochs == [(str(i + 1), f"{metrics['train/loss']:.4f}") for i, metrics in enumerate(recorder.epochs)]
    levels = {record.levelname for record in caplog.records if "loss at step" in record.message}
    assert levels == {"DEBUG"}  # in the file, not on the console


def test_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    fit(console)
    shown = console.file.getvalue()
    assert "epoch 2/2" in shown
    assert "step 8/8" in shown
    assert "steps/s" in shown
