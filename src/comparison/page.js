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
document.documentElement.dataset.ready = "true";
