"use strict";

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

// Columns that stay in place lie beside each other, which depends on how wide they have become.
const tables = [...document.querySelectorAll("table.sortable")];
const place = () => tables.forEach((table) => {
  let left = 0;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.classList.contains("fixed")) return;
    for (const row of table.rows) row.cells[column].style.left = `${left}px`;
    left += head.offsetWidth;
  });
});
document.querySelectorAll("details").forEach((details) => details.addEventListener("toggle", place));
window.addEventListener("resize", place);

// A box for each column hides or shows it in both tables.
const names = new Set(tables.flatMap((table) => [...table.tHead.rows[0].cells].map((head) => head.textContent)));
for (const name of names) {
  const label = document.createElement("label"), box = document.createElement("input");
  Object.assign(box, { type: "checkbox", checked: true });
  label.append(box, name);
  document.querySelector("#controls details").append(label);
  box.addEventListener("change", () => {
    for (const table of tables) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        if (head.textContent === name) for (const row of table.rows) row.cells[column].hidden = !box.checked;
      });
    }
    place();
  });
}

const CONFIG = {
  responsive: true,
  displaylogo: false,
  plotlyServerURL: "", // no button may send anything anywhere
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
};
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [section, { data, layout }] of figures) {
  const chart = document.createElement("div");
  chart.className = "chart";
  document.getElementById(section).append(chart);
  Plotly.newPlot(chart, data, layout, CONFIG);
}

// The runs that have all words in their settings or results, as `adam` or `optimizer=adam`, and their curves.
const search = document.querySelector("#controls input"), runs = document.getElementById("runs");
const texts = new Map([...runs.tBodies[0].rows].map((row) => [row, [...row.cells].map(
  (cell, column) => `${runs.tHead.rows[0].cells[column].textContent}=${cell.textContent}`).join("\n").toLowerCase()]));
const find = () => {
  const words = search.value.toLowerCase().split(/\s+/), found = [...texts.keys()].filter((row) => {
    row.hidden = !words.every((word) => texts.get(row).includes(word));
    return !row.hidden;
  });
  const groups = new Set(found.map((row) => row.dataset.group)), ids = new Set(found.map((row) => row.dataset.run));
  for (const row of document.querySelectorAll("#groups tbody tr")) row.hidden = !groups.has(row.dataset.group);
  for (const chart of document.querySelectorAll("#curves .chart")) {
    Plotly.restyle(chart, { visible: chart.data.map((curve) => ids.has(curve.meta[0])) });
  }
  document.querySelector("#controls output").textContent = `${found.length} of ${texts.size} runs`;
  place();
};
let waiting;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(find, 200); // until no more is typed
});
place();
document.documentElement.dataset.ready = "true";
