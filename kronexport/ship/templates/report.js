"use strict";
const collator = new Intl.Collator("en", { numeric: true });

/* A number where the cell holds one, so that 9 comes before 10; else its text. */
function keyOf(row, column) {
  const cell = row.cells[column];
  const data = cell.querySelector("data");
  return data ? Number(data.value) : cell.textContent.trim();
}

/* Cells without a number come last in either direction. */
function compare(one, other, sign) {
  const numbers = [one, other].filter((key) => typeof key === "number").length;
  if (numbers === 1) return typeof one === "number" ? -1 : 1;
  return sign * (numbers === 2 ? one - other : collator.compare(one, other));
}

function sortBy(table, head) {
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row, head.cellIndex) }));
  keyed.sort((one, other) => compare(one.key, other.key, sign));
  table.tBodies[0].append(...keyed.map((entry) => entry.row));
}

function filterBy(table, text, status) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => content.includes(word));
  }
  status.textContent = rows.filter((row) => !row.hidden).length + " of " + rows.length + " layers";
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  }
}
for (const box of document.querySelectorAll(".filter")) {
  const input = box.querySelector("input");
  const table = document.getElementById(input.getAttribute("aria-controls"));
  input.addEventListener("input", () => filterBy(table, input.value, box.querySelector("[role=status]")));
  box.hidden = false;
}
