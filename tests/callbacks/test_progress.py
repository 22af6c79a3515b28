"""Plain lines in a log, one screen on a terminal."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from src.callbacks.progress import Progress, Screen
from src.common.text import measured
from src.data.pipeline import InMemory
from src.training.state import Best
from tests.support.helpers import DIGITS, ROOT, only_run
from tests.support.terminal import Shown, on_terminal
from tests.training.test_trainer import Recorder, digits, small_trainer


def fit(console: Console, epochs: int = 2) -> Recorder:
    images, labels = digits(64)
    recorder = Recorder()
    progress = Progress(epochs=epochs, steps_per_epoch=4, every_steps=3, title="outputs/x/y", console=console)
    trainer = small_trainer(callbacks={"progress": progress, "recorder": recorder})
    trainer.fit(InMemory(images, labels, batch_size=16), epochs=epochs)
    return recorder


@pytest.mark.parametrize("kind", ["a file", "a dumb terminal"])
def test_lines(caplog, kind, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    caplog.set_level(logging.DEBUG, "src")
    console = Console(file=io.StringIO(), force_terminal=kind != "a file")
    recorder = fit(console)
    assert console.file.getvalue() == ""
    steps = re.findall(r"loss at step (\d+): (\S+)", caplog.text)
    assert [(int(step), float(loss)) for step, loss in steps] == [
        (step, float(f"{recorder.losses[step - 1]:.6g}")) for step in (3, 6)
    ]
    epochs = re.findall(r"epoch (\d+)/2 .*train/loss (\S+)", caplog.text)
    assert epochs == [(str(i + 1), measured(metrics["train/loss"])) for i, metrics in enumerate(recorder.epochs)]
    levels = {record.levelname for record in caplog.records if "loss at step" in record.message}
    assert levels == {"DEBUG"}  # in the file, not on the console


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def state():
    """Of a run that has been continued after step 400 of 800, in epoch 11 of 20."""
    best = Best(0.98, epoch=9, step=360, metrics={"val/accuracy": 0.98, "val/loss": 0.35})
    return SimpleNamespace(
        step=400, epoch=10, best=best, improved=False, monitor="val/accuracy", mode="max", learning_rate=0.1
    )


@pytest.fixture
def screen(state):
    screen = Screen(state, epochs=20, steps_per_epoch=40, title="outputs/digits/cnn-s0-1a2b3c4d", clock=Clock())
    for step, loss in enumerate((0.9, 0.5, 0.1)):
        screen.losses.append(loss)
        screen.loss, screen.steps_per_second, state.step = loss, 50.0, 401 + step
        screen.steps_done()
    for loss, accuracy in ((0.4, 0.97), (0.3, 0.96)):
        metrics = {"train/loss": loss, "train/accuracy": 0.99, "val/loss": loss + 0.1, "val/accuracy": accuracy}
        screen.epoch_done(metrics)
    return screen


def drawn(screen: Screen, columns: int, rows: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=columns, height=rows).print(screen)
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()


def test_the_screen(screen):
    title, head, speed, loss, empty, names, losses, accuracies, _ = drawn(screen, 100, 30)
    assert "outputs/digits/cnn-s0-1a2b3c4d" in title
    assert "epoch 11/20" in head and "50 %" in head and "step 403/800" in head
    assert "50 steps/s" in speed and "continued at step 400" in speed
    assert "loss 0.1000   █▅▁" in loss and empty.strip("│ ") == ""
    assert names.split("  ")[1:] and [word for word in ("train", "val", "★ best: epoch 9") if word not in names] == []
    assert losses.strip("│ ").split() == ["loss", "0.3000", "↓", "0.1000", "0.4000", "↓", "0.1000", "0.3500"]
    assert accuracies.strip("│ ").split() == ["accuracy", "0.9900", "=", "0.9600", "↓", "0.0100", "0.9800"]


def test_better_is_green_and_worse_is_red(screen, state):
    def colours() -> list[str]:
        console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, color_system="standard")
        console.print(screen)
        return re.findall(r"\x1b\[(3[12])m [↑↓]", console.file.getvalue())

    assert colours() == ["32", "32", "31"], "losses fell, val/accuracy fell"
    state.mode = "min"
    assert colours() == ["32", "32", "32"], "the monitor's mode counts"


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 100, 300])
@pytest.mark.parametrize("rows", [5, 12, 50])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_any_terminal(screen, columns, rows, encoding):
    lines = drawn(screen, columns, rows, encoding)
    assert len(lines) <= rows and max(map(len, lines)) <= min(columns - 4, 110)
    assert ("accuracy" in "".join(lines)) == (rows > 5 and columns >= 40)
    assert "0.1000" in "".join(lines), "the loss is always there"


def test_the_time_left_is_of_this_process_and_smooth(state):
    """400 steps were done before; the call that also builds the graph does not count."""
    screen = Screen(state, epochs=20, steps_per_epoch=40, title="x", clock=(clock := Clock()))
    assert screen.left_seconds() is None
    left = []
    for seconds, step in ((30, 401), (31, 411), (32, 421), (42, 431), (43, 441)):
        clock.seconds, state.step = seconds, step
        screen.steps_done()
        left.append(screen.left_seconds())
    assert left[0] is None and left[1] == pytest.approx(38.9) and left[2] == pytest.approx(37.9)
    assert left[3] == pytest.approx(369 * 12 / 30), "a validation of 10 s counts as part of what steps take"
    clock.seconds += 5
    assert screen.left_seconds() == pytest.approx(left[4] - 5), "it goes on while a call lasts"
    for step in range(451, 801, 10):
        clock.seconds, state.step = clock.seconds + 100, step
        screen.steps_done()
    assert screen.left_seconds() == pytest.approx(90), "only the last minute counts: these steps are ten times slower"
    state.step = 800
    assert screen.left_seconds() is None


def test_a_log_line_that_meets_the_screen_as_it_grows(state, caplog):
    """Live measures what it overwrites, then prints the line: what its own thread draws in between has that height."""

    class Line:
        def __rich_console__(self, console, options):
            other = threading.Thread(target=progress._live.refresh)
            other.start()
            other.join(10)
            assert not other.is_alive()
            yield "an epoch is done"

    class Lines(logging.Handler):
        def emit(self, record):
            console.print(Line())

    console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None)
    progress = Progress(epochs=20, steps_per_epoch=40, console=console)
    progress.on_train_begin(state)
    caplog.set_level(logging.INFO, Progress.__module__)
    logger, handler = logging.getLogger(Progress.__module__), Lines()
    logger.addHandler(handler)
    try:
        progress.on_log(SimpleNamespace(step=401, losses=[0.5]), {"train/loss": 0.5, "steps_per_second": 50.0})
        console.print(Line())
        progress.on_epoch_end(state, {"train/loss": 0.5, "val/loss": 0.6, "val/accuracy": 0.9})
    finally:
        logger.removeHandler(handler)
        progress.close()
    lines = Shown(console.file.getvalue().replace("\n", "\r\n"), "", 0, 80).lines
    tops = [number for number, line in enumerate(lines) if line.startswith("╭─")]
    assert len(tops) == 1, "\n".join(lines)
    assert lines[: tops[0]] == ["an epoch is done"] * 2


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    lean = ("~callback.images", "callback.export=null")
    overrides = ("data=digits", "model=mlp", *lean, "epochs=3", "++callback.progress.title=${run.dir}")
    found = on_terminal([sys.executable, "-m", "src.train", *overrides], cwd=folder, PYTHONPATH=str(ROOT))
    return folder, found


@pytest.mark.slow
def test_a_run_on_a_terminal(shown):
    """The screen is redrawn in place, log lines stand above it, and the last one stays."""
    folder, found = shown
    directory = only_run(folder / "outputs" / "digits").relative_to(folder)
    assert found.returncode == 0, found.written
    assert re.fullmatch(rf"val/accuracy 0\.\d{{6}}  \(epoch \d of 3, .* s\)\n{directory}\n", found.stdout)

    lines = found.lines
    (top,) = [number for number, line in enumerate(lines) if line.startswith("╭─")]
    assert str(directory) in lines[top] and lines[top + 8].startswith("╰─")
    assert found.written.count("╭─") > 3, "it was drawn many times"
    for epoch in (1, 2, 3):
        (number,) = [number for number, line in enumerate(lines) if f"INFO epoch {epoch}/3 " in line]
        assert number < top
    assert "epoch 3/3" in lines[top + 1] and "100 %" in lines[top + 1] and "step 120/120" in lines[top + 1]
    assert "steps/s" in lines[top + 2] and " left" not in lines[top + 2]
    assert "train" in lines[top + 5] and re.search(r"★ best: epoch [123]", lines[top + 5])
    assert re.search(r"accuracy  0\.\d{4} [↑↓=]", lines[top + 7])
    assert re.match(r"next: \S*python\S* -m src.evaluate", lines[top + 9])
    assert found.cursor_shown


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_killed_process_leaves_the_cursor(tmp_path):
    """It cannot bring it back, so it never hides it for long; Ctrl-C twice ends as abruptly."""

    def kill(written, process):
        if "steps/s" in written and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)

    command = [sys.executable, "-m", "src.train", *DIGITS, "epochs=200"]
    found = on_terminal(command, cwd=tmp_path, watch=kill, PYTHONPATH=str(ROOT))
    assert found.returncode == -signal.SIGKILL and "╭─" in found.written and found.cursor_shown
