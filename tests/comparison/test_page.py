"""The page needs no network and no other file: it opens from the disk, sorts, and has its charts and pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest

from src.common.pictures import png
from src.comparison import charts, page
from src.comparison.charts import MOST_CURVES, colours, curves, scatters
from src.comparison.columns import differing, headers
from src.comparison.effects import effects
from src.comparison.tables import table_of_groups
from tests.comparison.made import groups_in, make_run, rewrite, rows_in
from tests.support.commands import compare as main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--virtual-time-budget=10000")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"

# Clicks on headers as a reader does, and notes what the page is then.
PROBE = """<script>
const found = { errors: [], orders: [], sorts: [] };
const shown = () => [...document.querySelectorAll("#groups tbody tr:not([hidden])")];
const column = () => shown().map((row) => row.cells[3].textContent);
found.fixed = [...document.querySelectorAll("#groups th.fixed")].map((head) => head.textContent);
const heads = [...document.querySelectorAll("#groups th")];
const click = (name) => {
  const head = heads.find((head) => head.textContent === name);
  head.querySelector("button").focus();
  document.activeElement.click();
  found.orders.push(column());
  found.sorts.push(head.getAttribute("aria-sort"));
};
found.orders.push(column());
for (const name of ["optimizer", "val/accuracy", "val/accuracy"]) click(name);
found.charts = [...document.querySelectorAll(".chart")].filter((chart) => chart.querySelector(".main-svg")).length;
found.lines = document.querySelectorAll("#curves .chart:first-child .scatterlayer .js-line").length;
found.legend = [...document.querySelectorAll("#curves .chart:first-child .legendtext")].map((text) => text.textContent);
found.ticks = [...document.querySelectorAll("#scatters .chart:first-child .xtick text")].map((t) => t.textContent);
found.buttons = [...document.querySelectorAll(".modebar-btn")].map((button) => button.dataset.title);
found.pictures = [...document.images].map((image) => [image.alt, image.naturalWidth]);
const all = document.querySelectorAll("#groups th").length;
const box = [...document.querySelectorAll("#controls label")].find((label) => label.textContent === "seconds");
box.querySelector("input").click();
found.columns = [all, [...document.querySelectorAll("#groups th")].filter((head) => head.offsetWidth).length];
document.querySelector("#groups").parentElement.scrollLeft = 200;
found.moved = [0, 3].map((n) => document.querySelector("#groups tbody tr").cells[n].getBoundingClientRect().left);
found.requests = performance.getEntriesByType("resource").map(({ name }) => name).filter((n) => !n.startsWith("data:"));
found.ready = document.documentElement.dataset.ready;
found.overflows = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const typed = document.querySelector("#controls input");
typed.value = "Optimizer=SGD seed=1";
typed.dispatchEvent(new Event("input"));
setTimeout(() => {
found.searched = [column(), document.querySelector("#controls output").textContent];
found.curves = document.querySelectorAll("#curves .chart:first-child .scatterlayer .js-line").length;
const told = document.createElement("pre");
told.id = "found";
told.textContent = JSON.stringify(found);
document.body.append(told);
}, 1000);
</script></body>"""

HOSTILE = "</script><script>document.title='taken'</script><b>&amp;\"'%{y}"


@pytest.fixture
def without_plotly(monkeypatch):
    """The page without the 5 MB that draw."""
    monkeypatch.setattr(page, "get_plotlyjs", str)


def text_of(folder) -> str:
    rows = rows_in(folder)
    return page.page(groups_in(folder), differing(rows))


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.sample(1)
@pytest.mark.parametrize("width", [1300, 500], ids=["screen", "phone"])
def test_the_page_opens_from_the_disk_sorts_and_draws(tmp_path, width):
    pytest.importorskip("plotly", reason="needs the extra `report`")
    for optimizer, best in (("adam", 0.8), ("sgd", 0.95), (HOSTILE, 0.1)):
        for seed in (0, 1):
            make_run(tmp_path / "runs", f"{best}-{seed}", optimizer=optimizer, seed=seed, best=best + seed / 1000)
    best = tmp_path / "runs" / "0.95-1"
    (best / "evaluation" / "test").mkdir(parents=True)
    for name in ("predictions.png", "evaluation/test/confusion.png"):
        (best / name).write_bytes(png(np.zeros([20, 30, 3], np.uint8)))
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "page.html")]) == 0
    probed = tmp_path / "probed.html"
    before, end, after = (tmp_path / "page.html").read_text().rpartition("</body>")
    assert end
    probed.write_text(before + PROBE + after)
    command = [CHROMIUM, *FLAGS, OFFLINE, f"--window-size={width},2000", "--dump-dom", f"--user-data-dir={tmp_path}/c"]
    dumped = subprocess.run([*command, probed.as_uri()], capture_output=True, text=True, timeout=100, check=True).stdout
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)[1]))
    assert found["ready"] == "true"
    assert found["orders"] == [
        ["sgd", "adam", HOSTILE],
        [HOSTILE, "adam", "sgd"],
        [HOSTILE, "adam", "sgd"],
        ["sgd", "adam", HOSTILE],
    ]
    assert found["sorts"] == ["ascending", "ascending", "descending"]
    assert found["charts"] == 4  # loss and accuracy by epoch; the result by optimizer and by seed
    assert found["lines"] == 6 * 2 and found["legend"] == ["sgd", "adam", HOSTILE]
    assert sorted(found["ticks"]) == sorted(["sgd", "adam", HOSTILE])
    assert found["fixed"] == ["val/accuracy", "±", "n"]
    assert found["columns"][0] == found["columns"][1] + 1
    assert width == 500 or found["moved"][0] > 0 > found["moved"][1] - 250
    assert found["searched"] == [["sgd"], "1 of 6 runs"] and found["curves"] == 2
    assert set(found["buttons"]) == {"Zoom", "Pan", "Reset axes", "Download plot as a PNG"}  # none that sends anything
    assert found["pictures"] == [["predictions.png", 30], ["evaluation/test/confusion.png", 30]]
    assert found["requests"] == [] and not found["overflows"]
    assert "<title>digits: 6 runs</title>" in dumped


def test_failures_commands_and_commits_are_told(tmp_path, without_plotly):
    good = make_run(tmp_path, "good", typed=["'model.filters=8 '"])
    error = {"type": "ValueError", "message": "a < b"}
    make_run(tmp_path, "bad", best=None, status="failed", error=error, config={"x": 1})
    text = text_of(tmp_path)
    assert text.index("/good</td>") < text.index("/bad</td>")
    assert "bad failed: ValueError: a &lt; b</li>" in text
    assert "commit 1234567890abcdef, with changes that were not committed" in text
    command = unescape(re.search(r"python -m src\.train.*?(?=</pre>)", text)[0])
    typed = """optimizer=adam seed=0 ''"'"'model.filters=8 '"'"''"""
    assert command == f"python -m src.train {typed} hydra.run.dir={os.path.relpath(good)}"


def test_of_many_runs_the_best_are_drawn(tmp_path, without_plotly):
    for number in range(MOST_CURVES + 5):
        make_run(tmp_path, f"{number:03}", best=number / 100, config={"model.filters": number})
    groups, keys = groups_in(tmp_path), ["model.filters"]
    drawn = list(dict.fromkeys(curve.meta[1] for curve in curves(groups, keys)[0].data))
    assert len(drawn) == 2 * MOST_CURVES and drawn[0] == f"val, filters {MOST_CURVES + 4}"
    assert len(set(colours(groups))) == MOST_CURVES + 1
    assert f"Of {MOST_CURVES + 5} runs, the best {MOST_CURVES} are drawn." in text_of(tmp_path)


@pytest.mark.parametrize(
    ("values", "axis"),
    [
        ([0.001, 0.01, 0.1], "log"),
        ([0.001, 0.003, 0.01], "log"),
        ([1, 2, 30], "log"),
        ([8, 16, 24], "linear"),
        ([0.02, 0.1, 0.3, 0.5, 0.6], "linear"),
        ([-1, 0.01, 10], "linear"),
        ([0, 0.01, 10], "category"),
        ([0, *(10**-n for n in range(9))], "linear"),
        (["a", "b"], "category"),
    ],
)
def test_an_axis_is_logarithmic_where_a_linear_one_puts_values_together(tmp_path, values, axis):
    for number, value in enumerate(values):
        make_run(tmp_path, str(number), best=number / 10, config={"x": value})
    groups = groups_in(tmp_path)
    [scatter] = scatters(effects([group.best for group in groups]), groups, ["x"])
    names = [f"{value:.6g}" if axis == "category" and value not in ("a", "b") else value for value in values]
    assert (scatter.layout.xaxis.type, list(scatter.data[0].x)) == (axis, names[::-1])


def test_an_axis_of_losses_over_decades_is_logarithmic_and_no_other(tmp_path):
    lines = [{"epoch": n, "step": n, "val/loss": 10.0**-n, "val/accuracy": 10.0**-n} for n in (1, 2, 3)]
    make_run(tmp_path, "wide", monitor="val/loss", mode="min", history=lines)
    narrow = [line | {"val/loss": 0.1 + line["val/loss"]} for line in lines]
    make_run(tmp_path / "narrow", "narrow", monitor="val/loss", mode="min", history=narrow)
    of_both = {figure.layout.title.text: figure.layout.yaxis.type for figure in curves(groups_in(tmp_path), [])}
    assert of_both == {"loss": "log", "accuracy": None}
    assert {figure.layout.yaxis.type for figure in curves(groups_in(tmp_path / "narrow"), [])} == {None}


def test_legends_say_what_differs_among_the_runs_that_are_drawn(tmp_path, monkeypatch):
    for name, best, filters, rate in (("a", 0.9, 8, 0.1), ("b", 0.8, 8, 0.2), ("c", 0.1, 16, 0.3)):
        config = {"model.filters": filters, "optimizer.learning_rate": rate}
        make_run(tmp_path, name, best=best, config=config, typed=[f"{key}={value}" for key, value in config.items()])
    groups, keys = groups_in(tmp_path), differing(rows_in(tmp_path))
    assert curves(groups, keys)[0].data[0].name == "filters 8, learning_rate 0.1"
    monkeypatch.setattr(charts, "MOST_CURVES", 2)
    names = [curve.name for curve in curves(groups, keys)[0].data if curve.showlegend]
    assert names == ["learning_rate 0.1", "learning_rate 0.2"]


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        (
            "model._target_",
            ["mine.one.net", "mine.two.net", "mine.one.other"],
            ["mine.one.net", "mine.two.net", "other"],
        ),
        ("callback.mine.rate", [0.12345678, 0.12345679, 0.5], ["0.12345678", "0.12345679", "0.5"]),
        ("callback.mine.seed", [123456789012, 123456789013], ["123456789012", "123456789013"]),
        ("callback.mine.kind", ["relu", None], ["relu", ""]),
    ],
)
def test_other_settings_have_other_texts(tmp_path, key, values, shown):
    """In the table, on an axis, and in labels, where what is short would be alike."""
    for number, value in enumerate(values):
        config = {"callback.other.kind": "tanh" if value is None else None, key: value}
        make_run(tmp_path, str(number), best=0.9 - number / 10, config=config, typed=[f"{key}={value}"])
    rows = rows_in(tmp_path)
    groups, keys = groups_in(tmp_path), differing(rows)
    header, *lines = table_of_groups(groups, keys).cells()
    assert [line[header.index(headers(keys)[key])] for line in lines] == shown
    names = [curve.name for curve in curves(groups, keys)[0].data if curve.showlegend]
    assert len(set(names)) == len(values) and all(text in name for text, name in zip(shown, names, strict=True))
    axes = [scatter for scatter in scatters(effects([group.best for group in groups]), groups, keys) if scatter.data]
    assert all(len(set(axis.data[0].x)) == len(values) for axis in axes[:1])


def test_a_page_of_200_runs_is_small(tmp_path, without_plotly):
    history = [
        {"epoch": n, "step": n} | dict.fromkeys(("train/loss", "train/accuracy", "val/loss", "val/accuracy"), n / 31)
        for n in range(1, 31)
    ]
    for n in range(200):
        config = {
            "model.filters": n // 4,
            "optimizer.learning_rate": 0.1234567 / (1 + n // 4),
            "model.dropout": n // 4 / 60,
        }
        typed = [f"{key}={value}" for key, value in config.items()]
        make_run(
            tmp_path,
            f"cnn-adam-lr0.00012345-cosine-e30-b32-s{n}-{n:08x}",
            seed=n % 4,
            config=config,
            typed=typed,
            history=history,
        )
    text = text_of(tmp_path)
    assert text.count('"meta":') == 200 * 4 and len(text.encode()) < 1_000_000


def test_long_histories_are_thinned(tmp_path):
    line = {"step": 1, "seconds": 1.0, "val/loss": 1 / 3}
    make_run(tmp_path, "long", history=[{"epoch": epoch, **line} for epoch in range(1, 1001)])
    [loss] = curves(groups_in(tmp_path), [])
    [trace] = loss.data
    assert list(trace.x) == list(range(1, 1001, 3)) and set(trace.y) == {np.float32(1 / 3)}


def test_a_curve_has_a_gap_where_the_history_lacks_epochs(tmp_path):
    """A value that is NaN is one too; an epoch without validation is none."""
    lines = [{"epoch": n, "step": n, "train/loss": n / 10} for n in (1, 2, 5, 7, 8)]
    lines[1]["train/loss"] = None
    for line in lines[::2]:
        line["val/loss"] = 1.0
    make_run(tmp_path, "run", history=lines)
    make_run(tmp_path, "long", seed=1, history=[{"epoch": n, "loss": 2.0} for n in range(1, 2001) if n != 900])
    make_run(tmp_path, "empty", seed=2, history=[])
    [loss] = curves(groups_in(tmp_path), [])
    train, val, long = sorted(([curve.x, curve.y] for curve in loss.data), key=lambda axes: axes[1][0])
    gap = np.nan
    np.testing.assert_allclose(train, [[1, 2, 3, 5, 6, 7, 8], [0.1, gap, gap, 0.5, gap, 0.7, 0.8]])
    np.testing.assert_equal(val, [[1, 3, 5, 6, 8], [1.0, gap, 1.0, gap, 1.0]])
    assert long[0][np.isnan(long[1])].tolist() == [900]


def test_epochs_and_settings_have_all_their_digits(tmp_path, without_plotly):
    for seed, epoch in ((0, 1234), (1, 1235)):
        line = {"value": 0.9, "epoch": epoch, "step": 1}
        make_run(tmp_path, f"a{seed}", seed=seed, config={"noise_std": 0.12345}, history=[])
        rewrite(tmp_path / f"a{seed}", best=line)
    make_run(tmp_path, "b", config={"noise_std": 0.5})
    text = text_of(tmp_path)
    assert ">1234.5</td>" in text and ">0.12345</td>" in text


def test_without_plotly_the_extra_is_named(tmp_path, monkeypatch, capsys):
    make_run(tmp_path, "run")
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main([str(tmp_path), "--format", "html"]) == 2
    assert capsys.readouterr().err.endswith(
        "not installed: pip install -c constraints.txt -e '.[report]', or make setup\n"
    )
