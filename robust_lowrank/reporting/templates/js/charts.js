// Charts: the Vega-Lite specifications of the page, drawn in a theme; their parameter `hidden` lists series that are left out.
const charts = JSON.parse(document.getElementById("charts").textContent);
const ERRORS = 1; // Vega's log level without warnings
let views = [];
let drawing = Promise.resolve();

function drawCharts(theme, hidden) {
  if (typeof vegaEmbed === "undefined") return; // the page was written without what draws charts
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
      chart.view.logLevel(ERRORS); // a mark whose series is hidden would warn that it has no extent
      views.push(chart);
    }
  });
  hideInCharts(hidden);
}

function hideInCharts(hidden) {
  drawing = drawing.then(() => Promise.all(views.map(({ view }) => view.signal("hidden", hidden).runAsync())));
}
