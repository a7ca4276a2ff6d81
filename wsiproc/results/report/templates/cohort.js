"use strict";
// A click on a head sorts the table by its column, a second one the other way round; what has no value comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const sort = (column) => {
    const rising = heads[column].getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows];
    const [known, unknown] = [rows.filter((row) => value(row, column) !== ""), rows.filter((row) => value(row, column) === "")];
    known.sort((a, b) => (rising ? 1 : -1) * compare(value(a, column), value(b, column)));
    table.tBodies[0].append(...known, ...unknown);
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
  };
  heads.forEach((head, column) => {
    if ("fixed" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.onclick = () => sort(column);
    head.append(button);
  });
}
