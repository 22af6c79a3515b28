"""The page's charts, as Plotly's own JSON: curves over the epochs, and results over each swept key.

curves(groups, keys)[0]["data"][0]["y"]     # of a metric and a run
"""

from __future__ import annotations

import html
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from src.comparison.columns import headers
from src.comparison.effects import Effect
from src.comparison.groups import Group
from src.comparison.rows import Row, Value
from src.comparison.tables import show
from src.runs.record_schema import NO_METRICS, read_history

MOST_CURVES = 60  # runs
MOST_POINTS = 400  # of a curve
MOST_TICKS = 8  # values of a key that an axis names each, with their mean
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f", "#bcbd22"]
SCALE = "Viridis"  # Plotly's, from best to worst where groups are many
FADED = "#d0d0d0"
INK, SOFT, LINE, CLEAR = "#1d2733", "#5b6876", "#e3e8ee", "rgba(0,0,0,0)"  # as in page.css
DECADES = 2  # of positive numbers, that make an axis logarithmic
FEW = 2  # so many values, or fewer, are names on an axis though they are numbers

Figure = dict[str, Any]  # {"data": traces, "layout": ...}


def colours(groups: Sequence[Group]) -> list[str]:
    """A colour for each group: of their own where they are few, from best to worst where they are many."""
    from plotly.colors import sample_colorscale  # an extra

    if len(groups) <= len(PALETTE):
        return PALETTE[: len(groups)]
    before = itertools.accumulate((len(one.rows) for one in groups), initial=0)
    drawn = sum(count < MOST_CURVES for count, _ in zip(before, groups, strict=False))
    places = [rank / max(1, drawn - 1) for rank in range(drawn)]
    return [*sample_colorscale(SCALE, places), *[FADED] * (len(groups) - drawn)]


def label(row: Row, keys: Sequence[str]) -> str:
    """The settings that distinguish a run, in words: `adam, learning_rate 0.01`."""
    values = [(headers(keys)[key], key, row.settings.get(key)) for key in keys]
    words = [
        show(key, value) if isinstance(value, str) else f"{name} {show(key, value)}" for name, key, value in values
    ]
    return ", ".join(word for word in words if word) or "all runs"


def curves(groups: Sequence[Group], keys: Sequence[str]) -> list[Figure]:
    """A figure for each metric: the best runs by epoch, in their groups' colours; training is dashed."""
    over = groups[0].over
    group_keys, left = [key for key in keys if key not in over], MOST_CURVES
    traces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, (group, colour) in enumerate(zip(groups, colours(groups), strict=True)):
        named = set()  # metrics whose legend has the group
        for row in group.rows[:left]:
            name = label(row, [*group_keys, *over])
            for (metric, split), (epochs, values) in _lines(row).items():
                trace = _curve(epochs, values, colour, is_training=split == "train")
                trace["hovertemplate"] = f"%{{y:.5g}}<extra>{_text(f'{split}, {name}' if split else name)}</extra>"
                trace |= {"name": _text(label(group.best, group_keys)), "legendgroup": str(number)}
                traces[metric].append({**trace, "showlegend": metric not in named})
                named.add(metric)
        left -= len(group.rows[:left])
    return [_curves_figure(metric, found) for metric, found in traces.items()]


def scatters(effects: Sequence[Effect], groups: Sequence[Group], keys: Sequence[str]) -> list[Figure]:
    """A figure for each effect of these groups' runs: the results of the completed ones over the values of its key."""
    colour_of = {
        row.directory: colour for group, colour in zip(groups, colours(groups), strict=True) for row in group.rows
    }
    return [_scatter(effect, [colour_of[row.directory] for row, _ in effect.points], keys) for effect in effects]


def _lines(row: Row) -> dict[tuple[str, str], tuple[list[int], list[float | None]]]:
    """A run's curves by metric and split, train last: epochs and values, None where the history lacks epochs."""
    history, _ = read_history(row.directory)
    names = dict.fromkeys(key for epoch in history for key in epoch if key not in NO_METRICS)
    kept = _with_gaps(history, dict.fromkeys(names), every=-(-len(history) // MOST_POINTS))
    found = {}
    for name in sorted(names, key=lambda name: name.startswith("train/")):
        split, _, metric = name.rpartition("/")
        points = [(epoch["epoch"], _short(epoch[name])) for epoch in kept if name in epoch]
        if points:
            found[metric, split] = ([epoch for epoch, _ in points], [value for _, value in points])
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


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _curve(epochs: list[int], values: list[float | None], colour: str, *, is_training: bool) -> dict[str, Any]:
    with_points = "lines+markers" if None in values else "lines"  # a point between two gaps shows too
    dash, width = ("dash", 1.2) if is_training else ("solid", 1.8)
    return {
        "type": "scatter",
        "mode": "markers" if len(epochs) == 1 else with_points,
        "x": epochs,
        "y": values,
        "marker": {"size": 6 if len(epochs) == 1 else 4},
        "line": {"color": colour, "dash": dash, "width": width},
        "opacity": 0.55 if is_training else 0.9,
    }


def _curves_figure(metric: str, traces: list[dict[str, Any]]) -> Figure:
    epochs = [epoch for trace in traces for epoch in trace["x"]]
    ticks = {"tick0": min(epochs), "dtick": 1} if max(epochs) - min(epochs) < 10 else {}
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top", "maxheight": 90, "font": {"size": 11}}
    return _figure(metric, traces, "epoch", ticks, legend=legend)


def _scatter(effect: Effect, colours: list[str], keys: Sequence[str]) -> Figure:
    rows, values = zip(*effect.points, strict=True)
    numbers = [value for value in values if isinstance(value, int | float)]
    is_numeric = len(numbers) == len(values) and len(set(values)) > FEW
    x = numbers if is_numeric else [_name(effect.key, value) for value in values]
    results = defaultdict(list)
    for place, row in zip(x, rows, strict=True):
        results[place].append(row.result)
    dots = {
        "x": x,
        "y": [row.result for row in rows],
        "text": [_text(label(row, keys)) for row in rows],
        "marker": {"color": colours, "size": 9, "opacity": 0.75, "line": {"color": "#ffffff", "width": 1}},
        "hovertemplate": "%{y:.6g}<extra>%{text}</extra>",
    }
    means = {
        "x": list(results),
        "y": [statistics.fmean(of_value) for of_value in results.values()],
        "marker": {"symbol": "line-ew", "size": 34, "line": {"color": INK, "width": 2}},
        "hovertemplate": "mean %{y:.6g}<extra></extra>",
    }
    is_few = len(results) <= MOST_TICKS
    traces = [{"type": "scatter", "mode": "markers", "showlegend": False, **one} for one in (dots, means)[: 1 + is_few]]
    if is_numeric:
        kind = "log" if min(numbers) > 0 and math.log10(max(numbers) / min(numbers)) >= DECADES else "linear"
        axis: dict[str, Any] = {"type": kind} | (
            {"tickvals": list(results)} if is_few else {"dtick": 1} if kind == "log" else {}
        )
    else:
        names = [_name(effect.key, value) for value in sorted(dict.fromkeys(values), key=_numbers_first)]
        axis = {"type": "category", "categoryorder": "array", "categoryarray": names}
    name = headers(keys).get(effect.key, effect.key)
    return _figure(f"{effect.monitor} by {name}", traces, name, axis, hovermode="closest")


def _name(key: str, value: Value) -> str:
    return _text(show(key, value) or "none")


def _numbers_first(value: Value) -> tuple[bool, float]:
    """Numbers by size, then the others as they come, the best run's first."""
    return (False, value) if isinstance(value, int | float) else (True, 0.0)


def _figure(title: str, traces: list[dict[str, Any]], x: str, xaxis: dict[str, Any], **layout: Any) -> Figure:
    axis = {"gridcolor": LINE, "linecolor": LINE, "zeroline": False, "automargin": True, "exponentformat": "power"}
    layout |= {
        "title": {"text": _text(title), "font": {"size": 15, "color": INK}, "x": 0, "xref": "paper", "xanchor": "left"},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": SOFT},
        "margin": {"l": 50, "r": 10, "t": 40, "b": 40},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "hoverlabel": {"namelength": -1},
        "modebar": {"bgcolor": CLEAR, "color": "#b4bdc8", "activecolor": INK},
        "xaxis": {**axis, "title": {"text": _text(x), "standoff": 8}, **xaxis},
        "yaxis": axis,
    }
    return {"data": traces, "layout": layout}


def _text(words: str) -> str:
    """Words as Plotly shows them: it reads markup everywhere, and %{...} in templates."""
    return html.escape(words, quote=False).replace("%", "&#37;")
