"""The page's charts: curves over the epochs, and results over each swept key.

curves(groups, keys)[0].data[0].y     # of a metric and a run
"""

from __future__ import annotations

import functools
import html
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from src.common.text import told_apart
from src.comparison.columns import headers
from src.comparison.effects import Effect
from src.comparison.groups import Group, less_is_better
from src.comparison.rows import Row, Value
from src.comparison.tables import show
from src.runs.record_schema import NO_METRICS, read_history

MOST_CURVES = 200  # runs
MOST_POINTS = 400  # of a curve
MOST_TICKS = 8  # values of a key that an axis names each, with their mean
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f", "#bcbd22"]
SCALE = "Viridis"  # Plotly's, from best to worst where groups are many
FADED = "#d0d0d0"
INK, SOFT, LINE, CLEAR = "#1d2733", "#5b6876", "#e3e8ee", "rgba(0,0,0,0)"  # as in page.css
LOSS_DECADES = 2  # that make the axis of a loss logarithmic
MANY_DECADES = 3  # where an axis names only powers of ten
LABEL_DIGITS = ".4g"
FEW = 2  # so many values, or fewer, are names on an axis though they are numbers


def colours(groups: Sequence[Group]) -> list[str]:
    """A colour for each group: of their own where they are few, from best to worst where they are many."""
    if len(groups) <= len(PALETTE):
        return PALETTE[: len(groups)]
    before = itertools.accumulate((len(one.rows) for one in groups), initial=0)
    drawn = sum(count < MOST_CURVES for count, _ in zip(before, groups, strict=False))
    places = [rank / max(1, drawn - 1) for rank in range(drawn)]
    return [*sample_colorscale(SCALE, places), *[FADED] * (len(groups) - drawn)]


def labels(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """The settings that distinguish each run, in words: `adam, learning_rate 0.01`."""
    columns = []
    for key, name in headers(keys).items():
        values = [row.settings.get(key) for row in rows]
        texts = told_apart(values, functools.partial(show, key, digits=LABEL_DIGITS))
        is_choice = "." not in key and any(isinstance(value, str) for value in values)
        columns.append([text if is_choice and text else f"{name} {text or 'none'}" for text in texts])
    return [", ".join(words) or "all runs" for words in zip(*columns, strict=True)] or ["all runs"] * len(rows)


def curves(groups: Sequence[Group], keys: Sequence[str]) -> list[go.Figure]:
    """A figure for each metric: the best runs by epoch, in their groups' colours; training is dashed.

    Legends have the settings that differ among the drawn runs, and where groups are many there is none. `meta` of a
    curve is the id of its run, and what it is.
    """
    rows, left = [row for one in groups for row in one.rows][:MOST_CURVES], MOST_CURVES
    differing = [key for key in (*keys, *groups[0].over) if len({row.settings.get(key) for row in rows}) > 1]
    group_keys = [key for key in differing if key not in groups[0].over]
    run_keys = list(dict.fromkeys([*group_keys, *differing]))
    names = dict(zip([row.directory for row in rows], labels(rows, run_keys), strict=True))
    legends = labels([group.best for group in groups], group_keys)
    traces: dict[str, list[go.Scatter]] = defaultdict(list)
    for number, (group, colour) in enumerate(zip(groups, colours(groups), strict=True)):
        named = set()  # metrics whose legend has the group
        for row in group.rows[:left]:
            name = names[row.directory]
            for (metric, split), (epochs, values) in _lines(row).items():
                trace = _curve(epochs, values, colour, is_training=split == "train")
                trace.meta = [row.run.values["id"], _text(f"{split}, {name}" if split else name)]
                if metric not in named and len(groups) <= len(PALETTE):
                    trace.update(showlegend=True, name=_text(legends[number]))
                trace.legendgroup = str(number)
                traces[metric].append(trace)
                named.add(metric)
        left -= len(group.rows[:left])
    return [_curves_figure(metric, found, is_loss=less_is_better(metric, rows)) for metric, found in traces.items()]


def scatters(effects: Sequence[Effect], groups: Sequence[Group], keys: Sequence[str]) -> list[go.Figure]:
    """A figure for each effect of these groups' runs: the results of the completed ones over the values of its key."""
    colour_of = {
        row.directory: colour for group, colour in zip(groups, colours(groups), strict=True) for row in group.rows
    }
    return [_scatter(effect, [colour_of[row.directory] for row, _ in effect.points], keys) for effect in effects]


def _lines(row: Row) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """A run's curves by metric and split, train last: epochs and values, NaN where the history lacks epochs."""
    history, _ = read_history(row.directory)
    names = dict.fromkeys(key for epoch in history for key in epoch if key not in NO_METRICS)
    kept = _with_gaps(history, dict.fromkeys(names), every=-(-len(history) // MOST_POINTS))
    found = {}
    for name in sorted(names, key=lambda name: name.startswith("train/")):
        split, _, metric = name.rpartition("/")
        if points := [(epoch["epoch"], epoch[name]) for epoch in kept if name in epoch]:
            epochs, values = zip(*points, strict=True)
            with np.errstate(over="ignore"):  # infinite is not drawn either
                found[metric, split] = (np.array(epochs), np.array(values, float).astype(np.float32))  # None is NaN
    return found


def _with_gaps(history: Sequence[dict[str, Any]], gap: dict[str, None], *, every: int) -> list[dict[str, Any]]:
    """Every n-th epoch of each stretch of the history that lacks none, and a gap after each but the last."""
    stretches: list[list[dict[str, Any]]] = []
    for epoch in history:
        if stretches and epoch["epoch"] == stretches[-1][-1]["epoch"] + 1:
            stretches[-1].append(epoch)
        else:
            stretches.append([epoch])
    kept = [[*stretch[::every], {"epoch": stretch[-1]["epoch"] + 1, **gap}] for stretch in stretches]
    return [epoch for stretch in kept for epoch in stretch][:-1]


def _curve(epochs: np.ndarray, values: np.ndarray, colour: str, *, is_training: bool) -> go.Scatter:
    with_points = "lines" if np.isfinite(values).all() else "lines+markers"  # a point between two gaps shows too
    dash, width = ("dash", 1.2) if is_training else ("solid", 1.8)
    return go.Scatter(
        mode="markers" if len(epochs) == 1 else with_points,
        x=epochs,
        y=values,
        line={"color": colour, "dash": dash, "width": width},
        opacity=0.55 if is_training else 0.9,
    )


def _curves_figure(metric: str, traces: list[go.Scatter], *, is_loss: bool) -> go.Figure:
    epochs = np.concatenate([trace.x for trace in traces])
    few = {"tick0": int(epochs.min()), "dtick": 1} if np.ptp(epochs) < 10 else {}
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top", "maxheight": 90, "font": {"size": 11}}
    values = np.concatenate([trace.y for trace in traces])
    of_all = go.Scatter(hovertemplate="%{y:.5g}<extra>%{meta[1]}</extra>", marker_size=5, showlegend=False)
    axis = _axis_of_results(values, is_loss=is_loss)
    return _figure(metric, traces, "epoch", few, axis, legend=legend, template={"data": {"scatter": [of_all]}})


def _axis_of_results(values: Sequence[float] | np.ndarray, *, is_loss: bool) -> dict[str, Any]:
    return {"type": "log", "dtick": 1} if is_loss and _decades(values) >= LOSS_DECADES else {}


def _axis_type(values: Sequence[Value]) -> str:
    """`log` for numbers over a power of ten or more that lie at its lower end, where a linear axis puts them together.

    Where 0 is one of a few, these are names as texts are: `category`.
    """
    numbers = {value for value in values if isinstance(value, int | float)}
    distinct, low, high = len({*values}), min(numbers, default=0), max(numbers, default=0)
    if len(numbers) < distinct or distinct <= FEW:
        return "category"
    if low < 0 or high < 10 * low or statistics.median(numbers) > high / 3:
        return "linear"
    return "log" if low > 0 else "category" if distinct <= MOST_TICKS else "linear"


def _decades(values: Sequence[float] | np.ndarray) -> float:
    """How many powers of ten the finite values span; 0 where one is not positive."""
    finite = [float(value) for value in values if math.isfinite(value)]
    return math.log10(max(finite) / min(finite)) if finite and min(finite) > 0 else 0.0


def _scatter(effect: Effect, colours: list[str], keys: Sequence[str]) -> go.Figure:
    rows, values = zip(*effect.points, strict=True)
    kind, is_few = _axis_type(values), len(set(values)) <= MOST_TICKS
    texts = told_apart(values, functools.partial(show, effect.key))
    names = {value: _text(text or "none") for value, text in zip(values, texts, strict=True)}
    x = [names[value] for value in values] if kind == "category" else np.array(values, float)
    results: dict[Any, list[Any]] = defaultdict(list)
    for place, row in zip(x, rows, strict=True):
        results[place].append(row.result)
    dots: dict[str, Any] = {
        "x": x,
        "y": np.array([row.result for row in rows]),
        "text": [_text(words) for words in labels(rows, keys)],
        "marker": {"color": colours, "size": 9, "opacity": 0.75, "line": {"color": "#ffffff", "width": 1}},
        "hovertemplate": "%{y:.6g}<extra>%{text}</extra>",
    }
    means: dict[str, Any] = {
        "x": list(results),
        "y": [statistics.fmean(of_value) for of_value in results.values()],
        "marker": {"symbol": "line-ew", "size": 34, "line": {"color": INK, "width": 2}},
        "hovertemplate": "mean %{y:.6g}<extra></extra>",
    }
    traces = [go.Scatter(mode="markers", showlegend=False, **one) for one in (dots, means)[: 1 + is_few]]
    axis: dict[str, Any] = {"type": kind}
    if kind == "category":
        ordered = [names[value] for value in sorted(names, key=_numbers_first)]
        axis |= {"categoryorder": "array", "categoryarray": ordered}
    elif is_few:
        axis |= {"tickvals": sorted(results)}
    elif kind == "log":
        axis |= {"dtick": 1 if _decades(list(results)) >= MANY_DECADES else "D2"}
    name, is_loss = headers(keys).get(effect.key, effect.key), less_is_better(effect.monitor, rows)
    results_axis = _axis_of_results(dots["y"], is_loss=is_loss)
    return _figure(f"{effect.monitor} by {name}", traces, name, axis, results_axis, hovermode="closest")


def _numbers_first(value: Value) -> tuple[bool, float]:
    """Numbers by size, then the others as they come, the best run's first."""
    return (False, value) if isinstance(value, int | float) else (True, 0.0)


def _figure(
    title: str,
    traces: list[go.Scatter],
    x: str,
    xaxis: dict[str, Any],
    yaxis: dict[str, Any],
    *,
    template: Any = "none",
    **layout: Any,
) -> go.Figure:
    axis = {"gridcolor": LINE, "linecolor": LINE, "zeroline": False, "automargin": True, "exponentformat": "power"}
    return go.Figure(
        traces,
        go.Layout(
            title={
                "text": _text(title),
                "font": {"size": 15, "color": INK},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
            },
            font={"family": "system-ui, sans-serif", "size": 12, "color": SOFT},
            margin={"l": 50, "r": 10, "t": 40, "b": 40},
            paper_bgcolor=CLEAR,
            plot_bgcolor=CLEAR,
            hoverlabel={"namelength": -1},
            modebar={"bgcolor": CLEAR, "color": "#b4bdc8", "activecolor": INK},
            xaxis={**axis, "title": {"text": _text(x), "standoff": 8}, **xaxis},
            yaxis={**axis, **yaxis},
            template=template,
            **layout,
        ),
    )


def _text(words: str) -> str:
    """Words as Plotly shows them: it reads markup everywhere, and %{...} in templates."""
    return html.escape(words, quote=False).replace("%", "&#37;")
