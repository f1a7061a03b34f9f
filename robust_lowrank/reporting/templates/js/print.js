// Paper: everything is shown, what is folded on the screen too.
const paper = window.matchMedia("print");

paper.addEventListener("change", () => {
  for (const details of document.querySelectorAll(paper.matches ? "details:not([open])" : "details[data-folded]")) {
    details.open = paper.matches;
    details.toggleAttribute("data-folded", paper.matches);
  }
});
