"use strict";
(function () {
  const { byId, digits } = report;

  // All trials: sorted, filtered, a page at a time.
  const PAGE = document.documentElement.clientWidth < 640 ? 12 : 50;
  const { columns, rows } = report.read("trials");
  const at = (name) => columns.findIndex((column) => column.name === name);
  const searched = rows.map((row) => row.filter((value) => typeof value === "string").join(" ").toLowerCase());
  let order = rows.map((_, index) => index);
  let sorted = { column: -1, down: false };
  let page = 0;

  function shown(value, kind, name) {
    if (value === null || value === undefined) return "";
    if (value === "Infinity") return "∞";
    if (value === "-Infinity") return "−∞";
    if (kind === "text" || name === "seed") return String(value);
    if (kind === "ratio") return "×" + digits(value, 3);
    if (kind === "seconds") return digits(value, 3) + " s";
    if (kind === "size") return report.size(value);
    return name === "rows/s" ? Math.round(value).toLocaleString("en-US") : digits(value, 4);
  }
  function comparable(value, kind) {
    return kind === "text" || value === null ? value : Number(value);
  }

  const head = byId("trials-head");
  columns.forEach((column, index) => {
    const cell = document.createElement("th");
    cell.dataset.column = String(index);
    cell.textContent = column.name;
    cell.tabIndex = 0;
    if (column.kind !== "text") cell.className = "n";
    const sort = () => {
      sorted = { column: index, down: sorted.column === index ? !sorted.down : false };
      page = 0;
      arrange();
    };
    cell.addEventListener("click", sort);
    cell.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    head.appendChild(cell);
  });
  function options(id, column) {
    const select = byId(id);
    Array.from(new Set(rows.map((row) => row[column]))).sort().forEach((value) => {
      const option = document.createElement("option");
      option.value = option.textContent = value;
      select.appendChild(option);
    });
    select.addEventListener("change", () => { page = 0; arrange(); });
  }
  options("filter-quantizer", at("quantizer"));
  options("filter-status", at("status"));
  byId("filter-text").addEventListener("input", () => { page = 0; arrange(); });
  byId("filter-front").addEventListener("change", () => { page = 0; arrange(); });
  byId("previous").addEventListener("click", () => { page -= 1; draw(); });
  byId("next").addEventListener("click", () => { page += 1; draw(); });

  function arrange() {
    const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const quantizer = byId("filter-quantizer").value;
    const status = byId("filter-status").value;
    const front = byId("filter-front").checked;
    order = [];
    rows.forEach((row, index) => {
      if (quantizer && row[at("quantizer")] !== quantizer) return;
      if (status && row[at("status")] !== status) return;
      if (front && !row[columns.length].length) return;
      if (words.every((word) => searched[index].includes(word))) order.push(index);
    });
    if (sorted.column >= 0) {
      const { column, down } = sorted;
      const kind = columns[column].kind;
      order.sort((a, b) => {
        const x = comparable(rows[a][column], kind), y = comparable(rows[b][column], kind);
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) || a - b;
      });
    }
    draw();
  }
  function draw() {
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const body = byId("trials-body");
    const fresh = document.createDocumentFragment();
    order.slice(page * PAGE, (page + 1) * PAGE).forEach((index) => {
      const line = document.createElement("tr");
      const best = rows[index][columns.length];
      if (best.length) line.className = "front";
      columns.forEach((column, position) => {
        const cell = document.createElement("td");
        const content = shown(rows[index][position], column.kind, column.name);
        if (column.kind !== "text") cell.className = best.includes(position) ? "n best" : "n";
        if (column.name === "status") {
          const tag = document.createElement("span");
          tag.className = "tag " + content;
          tag.textContent = content;
          cell.appendChild(tag);
        } else if (column.name === "trial") {
          const key = document.createElement("code");
          key.textContent = content.slice(0, 8);
          key.title = content;
          cell.appendChild(key);
        } else {
          cell.textContent = content;
        }
        line.appendChild(cell);
      });
      fresh.appendChild(line);
    });
    body.replaceChildren(fresh);
    byId("page").textContent = "page " + (page + 1) + " of " + pages + ", " + order.length.toLocaleString("en-US") + (order.length === 1 ? " trial" : " trials");
    report.stack(byId("trials-table"));
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
    Array.from(head.children).forEach((cell, index) => {
      cell.textContent = columns[index].name.replace(".", ".\n") + (index === sorted.column ? (sorted.down ? " ↓" : " ↑") : "");
    });
  }
  arrange();
})();
