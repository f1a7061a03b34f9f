// Charts: the Vega-Lite specifications of the page, drawn in a theme; their parameter `hidden` lists series that are left out.
const charts = JSON.parse(document.getElementById("charts").textContent);
let views = [];
let drawing = Promise.resolve();

function drawCharts(theme, hidden) {
  drawing = drawing.then(async () => {
    views.forEach((chart) => chart.finalize());
    views = [];
    for (const place of document.querySelectorAll(".chart")) {
      const panels = place.closest(".panels");
      panels.hidden = false;
      const { figure, panel } = place.dataset;
      const chart = await vegaEmbed(place, charts.specs[figure][panel], {
        actions: false,
        config: { ...charts.configs[theme], range: charts.ranges[figure][theme] },
        renderer: "svg",
        tooltip: { theme },
      });
      panels.parentElement.classList.add("live");
      views.push(chart);
    }
  });
  hideInCharts(hidden);
}

function hideInCharts(hidden) {
  drawing = drawing.then(() => Promise.all(views.map(({ view }) => view.signal("hidden", hidden).runAsync())));
}
