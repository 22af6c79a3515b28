"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const INK = "#1d2733", SOFT = "#5b6876", LINE = "#e3e8ee";

// Tables: a click on a header sorts by it, another one the other way round; what is empty stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    const rows = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return { row, value: cell.dataset.value ?? cell.textContent.trim() };
    });
    const numeric = rows.every(({ value }) => value === "" || Number.isFinite(Number(value)));
    const order = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    rows.sort((a, b) => (a.value === "") - (b.value === "") || order(a.value, b.value) * (falls ? -1 : 1));
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    body.append(...rows.map(({ row }) => row));
  }));
}

// Words as Plotly shows them: it reads markup everywhere, and %{...} in templates.
function text(words) {
  return String(words).replace(/[&<>%]/g, (character) => `&#${character.charCodeAt(0)};`);
}

function draw(parent, title, traces, layout) {
  const chart = document.createElement("div");
  chart.className = "chart";
  parent.append(chart);
  const axis = { gridcolor: LINE, linecolor: LINE, zeroline: false, automargin: true, exponentformat: "power" };
  Plotly.newPlot(chart, traces, {
    title: { text: text(title), font: { size: 15, color: INK }, x: 0, xref: "paper", xanchor: "left" },
    font: { family: "system-ui, sans-serif", size: 12, color: SOFT },
    margin: { l: 50, r: 10, t: 40, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "#b4bdc8", activecolor: INK },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  }, {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "", // no button may send anything anywhere
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  });
}

// A metric's chart: every run's line, one name in the legend for each group.
function curves(parent, metric) {
  const traces = [];
  for (const [number, group] of data.curves.groups.entries()) {
    let named = false;
    for (const run of group.runs) {
      for (const [split, [x, y]] of Object.entries(run.lines[metric] ?? {})) {
        const training = split === "train";
        traces.push({
          type: "scatter",
          mode: x.length === 1 ? "markers" : y.includes(null) ? "lines+markers" : "lines", // a point between gaps too
          marker: { size: x.length === 1 ? 6 : 4 },
          x, y,
          name: text(group.label),
          legendgroup: String(number),
          showlegend: !named && (!training || Object.keys(run.lines[metric]).length === 1),
          line: { color: group.colour, width: training ? 1.2 : 1.8, dash: training ? "dash" : "solid" },
          opacity: training ? 0.55 : 0.9,
          hovertemplate: `%{y:.5g}<extra>${text(split ? `${split}, ${run.label}` : run.label)}</extra>`,
        });
        named ||= traces.at(-1).showlegend;
      }
    }
  }
  const epochs = traces.flatMap((trace) => trace.x);
  const last = epochs.reduce((a, b) => Math.max(a, b), 1), first = epochs.reduce((a, b) => Math.min(a, b), last);
  const ticks = last - first < 10 ? { tick0: first, dtick: 1 } : {};
  draw(parent, metric, traces, {
    xaxis: { title: { text: "epoch", standoff: 8 }, ...ticks },
    legend: { orientation: "h", y: -0.18, yanchor: "top", maxheight: 90, font: { size: 11 } },
  });
}

// The results of all runs over the values of a key, and where these are few the mean of each.
function scatter(parent, one) {
  const x = one.axis === "category" ? one.x.map(text) : one.x;
  const traces = [{
    type: "scatter",
    mode: "markers",
    x,
    y: one.y,
    marker: { color: one.colours, size: 9, opacity: 0.75, line: { color: "#ffffff", width: 1 } },
    text: one.labels.map(text),
    hovertemplate: "%{y:.6g}<extra>%{text}</extra>",
    showlegend: false,
  }];
  const values = [...new Set(x)];
  if (one.few) {
    const mean = (value) => {
      const results = one.y.filter((_, i) => x[i] === value);
      return results.reduce((sum, y) => sum + y, 0) / results.length;
    };
    traces.push({
      type: "scatter",
      mode: "markers",
      x: values,
      y: values.map(mean),
      marker: { symbol: "line-ew", size: 34, line: { color: INK, width: 2 } },
      hovertemplate: "mean %{y:.6g}<extra></extra>",
      showlegend: false,
    });
  }
  const ticks = one.axis === "category" ? { categoryorder: "array", categoryarray: one.order.map(text) } : one.few ? { tickvals: values } : one.axis === "log" ? { dtick: 1 } : {};
  draw(parent, `${one.monitor} by ${one.name}`, traces, {
    xaxis: { type: one.axis, title: { text: text(one.name), standoff: 8 }, ...ticks },
    hovermode: "closest",
  });
}

const curvesParent = document.getElementById("curves");
if (curvesParent) data.curves.metrics.forEach((metric) => curves(curvesParent, metric));
const scattersParent = document.getElementById("scatters");
if (scattersParent) data.scatters.forEach((one) => scatter(scattersParent, one));
document.documentElement.dataset.ready = "true";
