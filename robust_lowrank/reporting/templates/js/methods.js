// Methods: a button each, which hides its series in every chart, table and legend. Elements name their series by index.
const methods = [...document.querySelectorAll(".methods button")];
const belongings = [...document.querySelectorAll("[data-series]")].map((element) => [element, element.dataset.series.split(" ")]);

function hiddenSeries() {
  return methods.filter((button) => button.getAttribute("aria-pressed") === "false").map((button) => button.dataset.name);
}

for (const button of methods) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
    const off = methods.map((other) => other.getAttribute("aria-pressed") === "false");
    for (const [element, series] of belongings) element.classList.toggle("off", series.some((index) => off[index]));
    hideInCharts(hiddenSeries());
    countRows();
  });
}
if (methods.length) document.querySelector(".methods").hidden = false;
