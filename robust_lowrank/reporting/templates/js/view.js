// Runs: the address names the run whose panel is open, so that links, the keyboard and the button "back" open and close it.
const found = JSON.parse(document.getElementById("runs").textContent);
const panel = document.getElementById("run");

function plainTable(titles, rows, statusOf) {
  const cells = (texts, name) => texts.map((text) => element(name, { textContent: text }));
  const head = element("thead", {}, element("tr", {}, ...cells(titles, "th")));
  const lines = rows.map((row) => element("tr", { className: statusOf?.(row) ?? "" }, ...cells(row, "td")));
  return element("div", { className: "scroll" }, element("table", {}, head, element("tbody", {}, ...lines)));
}

function section(title, content) {
  return [element("h3", { textContent: title }), content];
}

function panelOf(run) {
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => panel.close());
  const title = element("h2", { id: "run-title", textContent: run.title });
  const parts = [element("header", {}, element("div", {}, title, element("p", { className: "subtitle", textContent: run.path })), close)];
  if (run.faults.length) {
    const faults = run.faults.map((fault) => element("li", { className: "finding-failure", textContent: fault }));
    parts.push(element("ul", { className: "findings" }, ...faults));
  }
  const facts = run.facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]);
  if (facts.length) parts.push(element("dl", {}, ...facts));
  if (run.accuracies.length) {
    const titles = ["Result", "Attack", "Eps", "Accuracy, %", "Interval", "Right"];
    parts.push(...section("Accuracies", plainTable(titles, run.accuracies)));
  }
  if (run.audit.length) {
    const marks = { pass: "✓", warn: "!", fail: "✕" };
    const rows = run.audit.map(([status, result, check, message]) => [marks[status], result, check, message]);
    parts.push(...section("Audit", plainTable(["", "Result", "Check", "Finding"], rows)));
  }
  if (run.config) parts.push(...section("Configuration", element("pre", { textContent: run.config })));
  return parts;
}

function openNamed() {
  const run = found[/^#run-(\d+)$/.exec(location.hash)?.[1]];
  if (!run) return panel.close();
  panel.replaceChildren(...panelOf(run));
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
}

panel.addEventListener("close", () => {
  if (/^#run-\d+$/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
});
panel.addEventListener("click", (event) => {
  if (event.target === panel) panel.close(); // beside it
});
for (const row of document.querySelectorAll("[data-table=runs] tbody tr")) {
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !getSelection().toString()) row.querySelector("a").click();
  });
}
window.addEventListener("hashchange", openNamed);
openNamed();
