"use strict";

// A column is sorted by its heading: best first (words from A), then the other way round, then as it was written.
// Groups keep their headings, each sorted within itself, unless the reader asks to rank across them.
const COLLATOR = new Intl.Collator("en", { numeric: true });

function key(row, column, words) {
  const text = row.cells[column].textContent.trim();
  if (words) return text === "" ? NaN : text;
  return parseFloat(text.replaceAll("−", "-").replaceAll(",", ""));
}

function sorted(rows, column, words, direction) {
  const keyed = rows.map((row) => [key(row, column, words), row]);
  const undefinedLast = (value) => Number(Number.isNaN(value));
  const compare = words ? COLLATOR.compare : (one, other) => one - other;
  keyed.sort(([one], [other]) => undefinedLast(one) - undefinedLast(other) || direction * compare(one, other) || 0);
  return keyed.map(([, row]) => row);
}

function makeSortable(table, links) {
  const headings = [...table.tHead.rows[0].cells];
  const groups = [...table.tBodies].map((body) => ({ body, rows: [...body.rows].filter((row) => !row.matches(".group")) }));
  const everything = document.createElement("tbody");
  let chosen = { column: 0, direction: 0 };
  let across = false;

  function show() {
    const { column, direction } = chosen;
    const words = headings[column].matches(".words, :first-child");
    const order = (rows) => (direction === 0 ? rows : sorted(rows, column, words, direction));
    for (const { body, rows } of groups) {
      body.hidden = across;
      if (!across) body.append(...order(rows));
    }
    everything.replaceChildren(...(across ? order(groups.flatMap(({ rows }) => rows)) : []));
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    if (direction !== 0) headings[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    const first = heading.matches(".words, :first-child") ? 1 : -1;
    button.addEventListener("click", () => {
      const next = chosen.column !== column ? first : { [first]: -first, [-first]: 0, 0: first }[chosen.direction];
      chosen = { column, direction: next };
      show();
    });
  });

  table.append(everything);
  if (groups.length < 2) return;
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => { across = box.checked; show(); });
  const label = document.createElement("label");
  label.append(box, " sort across groups");
  links.prepend(label);
}

for (const grid of document.querySelectorAll(".grid")) {
  makeSortable(grid.querySelector("table"), grid.querySelector(".links"));
}

// Beside the text the contents are open; above it they open on demand and close behind a choice.
const contents = document.querySelector(".toc details");
const narrow = matchMedia("(max-width: 64rem)");
const settle = () => { contents.open = !narrow.matches; };
narrow.addEventListener("change", settle);
contents.addEventListener("click", (event) => { if (event.target.closest("a") && narrow.matches) contents.open = false; });
settle();
