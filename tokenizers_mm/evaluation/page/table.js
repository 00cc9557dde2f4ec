// The summary table is in the page already; here its columns sort it.

function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const best = head.dataset.better === "higher" ? "descending" : "ascending"; // what the first click gives
    const other = best === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === best ? other : best;
    heads.forEach((h) => h.setAttribute("aria-sort", h === head ? order : "none"));
    const rows = [...body.rows].sort((a, b) => compare(a.cells[column].dataset.value, b.cells[column].dataset.value, order));
    body.append(...rows);
  }));
}

// Missing values stay last whatever the order.
function compare(a, b, order) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const sign = order === "ascending" ? 1 : -1;
  return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
}
