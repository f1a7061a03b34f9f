// Theme: the reader's system decides until the button is pressed.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const themeButton = document.getElementById("theme");

function applyTheme() {
  const theme = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  themeButton.textContent = theme === "dark" ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to the ${themeButton.textContent.toLowerCase()} theme`);
  drawCharts(theme, hiddenSeries());
}

themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  root.dataset.theme = themeButton.textContent.toLowerCase();
  applyTheme();
});
dark.addEventListener("change", applyTheme);
applyTheme();
