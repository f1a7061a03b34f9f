// Charts: the Vega-Lite specifications of the page, drawn in a theme when they can be seen; `hidden` lists series that are left out.
const charts = JSON.parse(document.getElementById("charts").textContent);
const ERRORS = 1; // Vega's log level without warnings
let views = [];
let drawing = Promise.resolve();
let look = { theme: "light", hidden: [] };

async function drawChart(place) {
  const { theme } = look;
  const panels = place.closest(".panels");
  panels.hidden = false;
  const { figure, panel } = place.dataset;
  place.dataset.drawn = theme;
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

function isFolded(place) {
  for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) if (!fold.open) return true;
  return false;
}

function drawWhatIsSeen() {
  if (typeof vegaEmbed === "undefined") return; // the page was written without what draws charts
  drawing = drawing.then(async () => {
    for (const place of document.querySelectorAll(".chart:not([data-drawn])")) if (!isFolded(place)) await drawChart(place);
  });
  hideInCharts(look.hidden);
}

function drawCharts(theme, hidden) {
  look = { theme, hidden };
  drawing = drawing.then(() => {
    views.forEach((chart) => chart.finalize());
    views = [];
    for (const place of document.querySelectorAll(".chart")) delete place.dataset.drawn;
  });
  drawWhatIsSeen();
}

function hideInCharts(hidden) {
  look.hidden = hidden;
  drawing = drawing.then(() => Promise.all(views.map(({ view }) => view.signal("hidden", hidden).runAsync())));
}

document.addEventListener("toggle", drawWhatIsSeen, true); // a fold; it does not bubble
