// Paper: everything is shown, what is folded on the screen too. Browsers say so before they count pages; tools change the medium alone.
const printMedium = window.matchMedia("print");
let onPaper = false;

function setPaper(now) {
  if (now === onPaper) return;
  onPaper = now;
  for (const details of document.querySelectorAll(now ? "details:not([open])" : "details[data-folded]")) {
    details.open = now;
    details.toggleAttribute("data-folded", now);
  }
  document.dispatchEvent(new Event("paper"));
}

window.addEventListener("beforeprint", () => setPaper(true));
window.addEventListener("afterprint", () => setPaper(false));
printMedium.addEventListener("change", () => setPaper(printMedium.matches));
