"""Shows how training goes: one screen, redrawn in place, on a terminal, plain lines elsewhere; both in the log.

Progress(epochs=20, steps_per_epoch=40, every_steps=10, title="outputs/digits/cnn-1a2b3c4d")
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from src.common.ranges import Count, enforce_ranges
from src.common.text import duration, measured, of_one_class, sparkline
from src.training.callback import Callback
from src.training.state import TrainState

log = logging.getLogger(__name__)

REFRESHES_PER_SECOND = 4
LOSSES = 40  # of the sparkline
RATE_SECONDS = 60  # that the time left is told from, validation and checkpoints among them
WIDEST = 110  # columns of the screen
ECHO = 4  # columns left free for `^C`, which would otherwise begin a line of its own and shift what is redrawn
MEDIUM, NARROW = 50, 24  # columns that the first line needs with its step, and the others with more than a few words
CHANGED_CELL, BEST_CELL = 17, 16  # columns of the table's cells
LOWER_IS_BETTER = ("loss", "error")  # in a metric's name, where it is not the monitor


@enforce_ranges
class Progress(Callback):
    """Report losses and epochs.

    Args:
        epochs: of the whole run.
        steps_per_epoch: training steps an epoch.
        every_steps: how often a `loss at step` line is logged, in steps (level DEBUG).
        title: what is trained, above the screen.
        console: where the screen goes; standard error by default.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        every_steps: Count = 10,
        title: str | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._steps_per_epoch, self._interval, self._clock = epochs, steps_per_epoch, every_steps, clock
        self._title, self._console = title or "training", console or Console(file=sys.stderr)
        self._live: Live | None = None
        self._epoch_began = clock()

    def on_train_begin(self, state: TrainState) -> None:
        self._epoch_began = self._clock()
        self._screen = Screen(
            state, epochs=self._epochs, steps_per_epoch=self._steps_per_epoch, title=self._title, clock=self._clock
        )
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                self._screen,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start(refresh=True)
            self._console.show_cursor(True)  # which Live hides: a process that is killed would leave it so

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        first = state.step - len(state.losses) + 1
        for step in range(first + (-first) % self._interval, state.step + 1, self._interval):
            loss = float(state.losses[step - first])
            log.debug("loss at step %d: %.6g", step, loss)
            self._screen.losses.append(loss)
        grows = self._screen.loss is None
        self._screen.loss, self._screen.steps_per_second = metrics["train/loss"], metrics["steps_per_second"]
        self._screen.steps_done()
        if grows:
            self._redraw()

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {measured(value)}" for name, value in _in_tables(metrics).items())
        log.info("step %d  %s%s", state.step, shown, "  (best)" if state.improved else "")

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        now = self._clock()
        metrics = _in_tables(metrics)
        self._screen.epoch_done(metrics)
        self._redraw()
        shown = "  ".join(f"{name} {measured(value)}" for name, value in metrics.items())
        star = "  (best)" if state.improved else ""
        rate = "" if state.learning_rate is None else f"  learning rate {state.learning_rate:.3g}"  # of its last step
        seconds = now - self._epoch_began
        log.info("epoch %d/%d  %.1f s  %s%s%s", state.epoch, self._epochs, seconds, shown, rate, star)
        self._epoch_began = now

    def _redraw(self) -> None:
        """Where the screen's height changed: a log line and Live's own thread must not both be the first to draw it.

        Live measures what it overwrites before a line is printed, and its thread may draw between the two.
        """
        if self._live:
            self._live.refresh()

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


class Screen:
    """What a terminal shows of a run: how far it is, its losses, and the metrics of the last epoch and of the best.

    Drawn by another thread than the one that trains.
    """

    def __init__(
        self, state: TrainState, *, epochs: int, steps_per_epoch: int, title: str, clock: Callable[[], float]
    ) -> None:
        self._state, self._epochs, self._steps, self._title = state, epochs, epochs * steps_per_epoch, title
        self._clock, self._began, self._first_step = clock, clock(), state.step
        self._points: deque[tuple[float, int]] = deque()
        self._now: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self.losses: deque[float] = deque(maxlen=LOSSES)
        self.loss: float | None = None
        self.steps_per_second: float | None = None

    def steps_done(self) -> None:
        """Some more steps are done, now."""
        now = self._clock()
        self._points.append((now, self._state.step))
        while len(self._points) > 2 and now - self._points[1][0] >= RATE_SECONDS:
            self._points.popleft()

    def epoch_done(self, metrics: Mapping[str, float]) -> None:
        """An epoch and its validation are done."""
        self._before, self._now = self._now, dict(metrics)

    def left_seconds(self) -> float | None:
        """How long the steps to come will take, by those that this process has done; None where either are too few.

        The first call is left out: it also builds the graph.
        """
        points = list(self._points)
        if len(points) < 2 or self._state.step >= self._steps:
            return None
        (began, first), (ended, last) = points[0], points[-1]
        each = (ended - began) / (last - first)
        return max(0.0, (self._steps - last) * each - (self._clock() - ended))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        outer = min(options.max_width - ECHO, WIDEST)
        ascii_only, width = options.ascii_only, outer - 4
        parts: list[RenderableType] = [self._head(width), self._speed(width)]
        if self.loss is not None:
            parts.append(self._loss(width, ascii_only))
        names = list(dict.fromkeys(name.partition("/")[2] for name in self._now))
        if names and width >= NARROW and console.height >= len(parts) + len(names) + 6:
            parts += ["", self._metrics(names, width, ascii_only)]
        title = Text(self._fitted_title(width - 2), style="bold")
        yield Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=outer)

    def _fitted_title(self, width: int) -> str:
        """The path, or its end, which has the id."""
        name = self._title if len(self._title) <= width else os.path.basename(self._title)
        return name if len(name) <= width else name[-max(width, 1) :]

    def _head(self, width: int) -> RenderableType:
        state, steps = self._state, max(self._steps, 1)
        epoch = Text(f"epoch {min(state.epoch + 1, self._epochs)}/{self._epochs}", style="bold")
        bar = ProgressBar(total=steps, completed=state.step)
        cells: list[RenderableType] = [epoch, bar, f"{100 * state.step // steps} %"]
        if width >= MEDIUM:
            cells.append(f"step {state.step}/{self._steps}")
        elif width < NARROW:
            cells.remove(bar)
        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for cell in cells:
            row.add_column(ratio=1 if cell is bar else None, no_wrap=True, overflow="crop")
        row.add_row(*cells)
        return row

    def _speed(self, width: int) -> Text:
        rate, left = self.steps_per_second, self.left_seconds()
        words = ["building the graph" if rate is None else f"{rate:.4g} steps/s"]
        if left is not None:
            words.append(f"{duration(left)} left")
        words.append(f"{duration(self._clock() - self._began)} elapsed")
        if self._first_step:
            words.append(f"continued at step {self._first_step}")
        while len(words) > 1 and len("   ".join(words)) > width:
            words.pop()
        return Text("   ".join(words), style="cyan", no_wrap=True, overflow="crop")

    def _loss(self, width: int, ascii_only: bool) -> Text:
        assert self.loss is not None
        line = Text(f"loss {measured(self.loss)}   ", style="bold", no_wrap=True, overflow="crop")
        losses = list(self.losses)
        room = 0 if ascii_only else max(0, width - len(line))
        return line.append(sparkline(losses[max(0, len(losses) - room) :]), style="magenta")

    def _metrics(self, names: list[str], width: int, ascii_only: bool) -> Table:
        """A row a metric, a column a split with the change since the epoch before, and the values of the best epoch."""
        best, split_of_best = self._state.best, self._state.monitor.partition("/")[0]
        splits = list(dict.fromkeys(name.partition("/")[0] for name in self._now))
        room = width - max(map(len, names)) - CHANGED_CELL * len(splits)
        columns = ["", *splits]
        if has_best := best is not None and room >= BEST_CELL:
            columns.append(f"{'*' if ascii_only else '★'} best: epoch {best and best.epoch}")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in columns:
            table.add_column(column, no_wrap=True, overflow="crop")
        for name in names:
            cells = [self._cell(f"{split}/{name}", ascii_only, changes=room >= 0) for split in splits]
            if has_best:
                cells.append(self._best_cell(f"{split_of_best}/{name}"))
            table.add_row(name, *cells)
        return table

    def _cell(self, name: str, ascii_only: bool, *, changes: bool) -> Text:
        value, before = self._now.get(name), self._before.get(name)
        cell = Text("" if value is None else measured(value))
        if value is None or before is None or not changes or not math.isfinite(value - before):
            return cell
        amount, rises = measured(abs(value - before)), value > before
        if value == before:
            return cell.append(" =", style="dim")
        arrow = ("+" if rises else "-") if ascii_only else ("↑" if rises else "↓")
        return cell.append(f" {arrow} {amount}", style="red" if rises == self._lower_is_better(name) else "green")

    def _best_cell(self, name: str) -> Text:
        best = self._state.best
        values = {**(best.metrics or {}), self._state.monitor: best.value} if best else {}
        value = values.get(name)
        style = "bold green" if name == self._state.monitor else ""
        return Text("" if value is None else measured(value), style=style)

    def _lower_is_better(self, name: str) -> bool:
        if name.partition("/")[2] == self._state.monitor.partition("/")[2]:
            return self._state.mode == "min"
        return any(word in name for word in LOWER_IS_BETTER)


def _in_tables(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not of_one_class(name)}
