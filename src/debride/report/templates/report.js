"use strict";
// All of the page can be read without this: it sorts tables, filters, and opens all for the printer.
(() => {
  const number = (cell) => {
    const text = cell.textContent.trim().replace(/[\u202f\u00a0 ](?=\d)/g, "").replace("−", "-");
    const found = text.match(/^[+±]?(-?\d+(\.\d+)?)/);
    return found ? Number(found[1]) : null;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (x !== null && y !== null) return x - y;
    if (x !== null || y !== null) return x === null ? 1 : -1;
    return a.textContent.trim().localeCompare(b.textContent.trim());
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows];
        rows.sort((a, b) => (up ? 1 : -1) * compare(a.cells[column], b.cells[column]));
        body.append(...rows);
      });
    });
  }
  for (const place of document.querySelectorAll("[data-filter]")) {
    const items = place.matches("table") ? [...place.tBodies[0].rows] : [...place.children];
    const said = document.createElement("output");
    const bar = document.createElement("div");
    bar.className = "filters";
    const choices = [];
    const apply = () => {
      let shown = 0;
      for (const item of items) {
        const fits = choices.every(([key, select]) => !select.value || item.dataset[key] === select.value);
        item.hidden = !fits;
        shown += fits;
      }
      said.textContent = shown < items.length ? `${shown} of ${items.length} shown` : "";
    };
    for (const pair of place.dataset.filter.split(",")) {
      const [key, title] = pair.split(":");
      const values = [...new Set(items.map((item) => item.dataset[key]))].sort();
      if (values.length < 2) continue;
      const select = document.createElement("select");
      select.append(new Option("all", ""), ...values.map((value) => new Option(value)));
      select.addEventListener("change", apply);
      const label = document.createElement("label");
      label.append(`${title} `, select);
      bar.append(label);
      choices.push([key, select]);
    }
    if (!choices.length) continue;
    bar.append(said);
    (place.closest(".scroll") ?? place).before(bar);
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
})();
