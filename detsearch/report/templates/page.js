"use strict";

for (const name of ["front", "growth", "stages"]) {
  const data = document.getElementById(`${name}-data`);
  if (!data) continue;
  const figure = JSON.parse(data.textContent);
  const plot = document.getElementById(`${name}-plot`);
  // Named one by one: plotly's own choice has a button that sends the chart to a server.
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  Plotly.newPlot(`${name}-plot`, figure.data, { ...figure.layout, showlegend: false }, config);
}

for (const choice of document.querySelectorAll("input[name=by]")) {
  choice.addEventListener("change", () => {
    const plot = document.getElementById("front-plot");
    plot.data.forEach((trace, number) => {
      const colours = trace.meta && trace.meta.colours;
      if (colours) Plotly.restyle(plot, { "marker.color": [colours[choice.value]] }, [number]);
    });
    for (const key of document.querySelectorAll(".key[data-by]")) key.hidden = key.dataset.by !== choice.value;
  });
}

for (const table of document.querySelectorAll("table.trials")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const numeric = head.classList.contains("number") || head.textContent === "Input";
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numeric ? a - b : a.localeCompare(b));
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  }));
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      window.getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
