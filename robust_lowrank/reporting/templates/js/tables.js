// Tables: a button in every heading sorts (up, down, as it was), a box above long tables filters. On paper they stand as they were.
const LONG = 6;
const text = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const counts = [];

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Missing values stand last in both directions; equal ones keep their order.
function sorted(rows, column, direction) {
  const cells = rows.map((row) => row.cells[column]);
  const numeric = cells.some((cell) => cell.dataset.value);
  const keys = new Map(
    rows.map((row, i) => [row, numeric ? parseFloat(cells[i].dataset.value) : cells[i].querySelector(".value").textContent]),
  );
  const known = rows.filter((row) => !Number.isNaN(keys.get(row)));
  const compare = numeric ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : text.compare;
  known.sort((a, b) => direction * compare(keys.get(a), keys.get(b)));
  return [...known, ...rows.filter((row) => Number.isNaN(keys.get(row)))];
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  let order = null;
  const show = () => body.append(...(order && !paper.matches ? sorted(rows, order.column, order.direction) : rows));
  headings.forEach((heading, column) => {
    const button = element("button", { type: "button", className: "sort" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = { none: 1, ascending: -1, descending: 0 }[heading.getAttribute("aria-sort") ?? "none"];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (direction) heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      order = direction ? { column, direction } : null;
      show();
    });
  });
  paper.addEventListener("change", show);
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const box = element("input", { type: "search" });
  const count = element("output", {});
  counts.push(() => {
    const shown = rows.filter((row) => !row.matches(".off, .unmatched")).length;
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  });
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      row.classList.toggle("unmatched", !words.every((word) => content.includes(word)));
    }
    countRows();
  });
  table.parentElement.before(element("p", { className: "filter" }, element("label", {}, "Filter rows ", box), count));
}

function countRows() {
  counts.forEach((count) => count());
}

for (const table of document.querySelectorAll(".scroll > table")) {
  const rows = table.tBodies[0].rows.length;
  if (rows > 1) makeSortable(table);
  if (rows > LONG) makeFilterable(table);
}
