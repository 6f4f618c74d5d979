// Draws the charts of the overview from its table, so that both always say the same.
"use strict";
(() => {
  const TONES = {done: "--ok-fg", failed: "--fault-line", repeated: "--duplicated-fg", lost: "--lost-fg", waiting: "--link-fg"};
  const DASHES = [[], [6, 3], [2, 2], [10, 3, 2, 3]];
  const drawn = new Map();
  let open = new Set();

  function draw() {
    for (const [canvas, chart] of drawn) {
      if (!canvas.isConnected) {
        chart.destroy();
        drawn.delete(canvas);
      }
    }
    for (const box of document.querySelectorAll("[data-series]")) {
      const table = document.getElementById(box.dataset.series);
      const names = [...table.tHead.rows[0].cells].map(cell => cell.textContent.trim());
      const rows = [...table.tBodies[0].rows];
      const number = cell => cell.textContent === "–" ? null : Number(cell.textContent);
      const style = getComputedStyle(document.documentElement);
      const colour = name => style.getPropertyValue(name).trim();
      for (const canvas of box.querySelectorAll("canvas")) {
        const columns = canvas.dataset.columns.split(",").map(Number);
        drawn.get(canvas)?.destroy();
        const scale = {beginAtZero: true, ticks: {color: colour("--body-quiet-color"), maxTicksLimit: 6}, grid: {color: colour("--hairline-color")}};
        drawn.set(canvas, new Chart(canvas, {
          type: "line",
          data: {
            labels: rows.map(row => row.cells[0].textContent.trim()),
            datasets: columns.map((column, index) => ({
              label: names[column],
              data: rows.map(row => number(row.cells[column])),
              borderColor: colour(TONES[names[column]] ?? "--body-quiet-color"),
              borderDash: DASHES[index], borderWidth: 2, pointRadius: rows.length > 100 ? 1 : 2, yAxisID: names[column].startsWith("oldest") ? "right" : "y", pointHitRadius: 8, spanGaps: false,
            })),
          },
          options: {
            animation: false, maintainAspectRatio: false, interaction: {mode: "index", intersect: false},
            plugins: {legend: {labels: {color: colour("--body-fg"), boxHeight: 1}}},
            scales: {x: {...scale, ticks: {...scale.ticks, maxRotation: 0}, grid: {display: false}}, y: scale, ...(columns.includes(6) ? {right: {...scale, position: "right", grid: {display: false}}} : {})},
          },
        }));
      }
    }
  }

  document.addEventListener("DOMContentLoaded", draw);
  document.addEventListener("htmx:beforeSwap", () => {
    open = new Set([...document.querySelectorAll("details[id][open]")].map(element => element.id));
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    draw();
  });
  new MutationObserver(draw).observe(document.documentElement, {attributes: true, attributeFilter: ["data-theme"]});
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
