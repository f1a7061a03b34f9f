const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const button = document.getElementById("theme");
let views = [];
let drawing = Promise.resolve();

const theme = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");

async function draw() {
  const current = theme();
  button.textContent = current === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to the ${button.textContent.toLowerCase()} theme`);
  views.forEach((view) => view.finalize());
  views = [];
  for (const place of document.querySelectorAll(".chart")) {
    const panels = place.closest(".panels");
    panels.hidden = false;
    const { figure, panel } = place.dataset;
    const result = await vegaEmbed(place, charts.specs[figure][panel], {
      actions: false,
      config: { ...charts.configs[current], range: charts.ranges[figure][current] },
      renderer: "svg",
      tooltip: { theme: current },
    });
    panels.parentElement.classList.add("live");
    views.push(result);
  }
}

const redraw = () => (drawing = drawing.then(draw));

button.hidden = false;
button.addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  redraw();
});
dark.addEventListener("change", redraw);
redraw();
