"use strict";
// When the page is complete: the points are those of the table of all trials, which stands below.
document.addEventListener("DOMContentLoaded", () => {
  const { byId, digits } = report;
  const { columns, rows } = report.read("trials");
  const { directions, looks } = report.read("cost-data");
  const at = (name) => columns.findIndex((column) => column.name === name);
  const places = Object.fromEntries(["quantizer", "parameters", "budget", "status"].map((name) => [name, at(name)]));

  // What an axis can show: where it is in a row of the table of trials, which end is better, how it is written.
  const axes = {
    payload: { at: at("payload"), direction: "min", log: true, title: "payload", write: report.size },
    fit: { at: at("fit"), direction: "min", log: true, title: "seconds of a fit", write: (value) => digits(value, 2) + " s" },
    lookups: { at: at("rows/s"), direction: "max", log: true, title: "rows looked up a second", write: (value) => Math.round(value).toLocaleString("en-US") },
  };
  for (const [name, direction] of Object.entries(directions)) {
    axes[name] = { at: at(name), direction, log: false, title: name, write: (value) => digits(value, 4), tick: (value) => digits(value, 1) };
  }

  // Configurations: the means over their seeds.
  const groups = new Map();
  for (const row of rows) {
    if (row[places.status] !== "ok") continue;
    const key = JSON.stringify([row[places.quantizer], row[places.parameters], row[places.budget]]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const mean = (members, axis) => {
    const values = members.map((row) => row[axis.at]).filter((value) => value !== null).map(Number);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : NaN;
  };
  const configurations = Array.from(groups.values(), (members) => ({
    method: members[0][places.quantizer],
    parameters: members[0][places.parameters],
    values: Object.fromEntries(Object.entries(axes).map(([name, axis]) => [name, mean(members, axis)])),
  }));
  report.configurations = configurations;

  const [xSelect, ySelect] = [byId("cost-x"), byId("cost-y")];
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  function figure() {
    const [xName, yName] = [xSelect.value, ySelect.value];
    const usable = (name) => {
      const found = configurations.map((one) => one.values[name]).filter(Number.isFinite);
      const positive = found.filter((value) => value > 0);
      const errors = axes[name].direction === "min" && positive.length && Math.max(...positive) > 10 * Math.min(...positive);
      return { log: axes[name].log || errors, values: positive };
    };
    const ends = { x: usable(xName), y: usable(yName) };
    const fits = (value, end) => Number.isFinite(value) && (!end.log || value > 0);
    const shown = configurations.filter((one) => fits(one.values[xName], ends.x) && fits(one.values[yName], ends.y));
    const data = Object.entries(looks).map(([method, look]) => {
      const mine = shown.filter((one) => one.method === method);
      return {
        x: mine.map((one) => one.values[xName]), y: mine.map((one) => one.values[yName]), mode: "markers", name: method, meta: method,
        marker: { size: 8, symbol: look.plotly, color: look.colour, line: { color: "white", width: 1 } },
        text: mine.map((one) => "<b>" + escape(method) + "</b> " + escape(one.parameters).replace(/, /g, "<br>") +
          [xName, yName].map((name) => "<br>" + escape(axes[name].title) + " " + axes[name].write(one.values[name])).join("")),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    data.unshift(frontier(shown, xName, yName));
    const axis = (name, end) => ({
      title: { text: escape(axes[name].title) }, zeroline: false, automargin: true, gridcolor: "#e5e7eb",
      ...(end.log && end.values.length ? report.logAxis(end.values, axes[name].tick || axes[name].write) : {}),
    });
    return { data, layout: report.layout({ xaxis: axis(xName, ends.x), yaxis: axis(yName, ends.y) }) };
  }
  const plot = () => report.draw(byId("cost-plot"), figure);
  /** The points that no other beats on both axes, joined. */
  function frontier(shown, xName, yName) {
    const worth = (one, name) => one.values[name] * (axes[name].direction === "min" ? -1 : 1);
    const order = shown.slice().sort((a, b) => worth(b, xName) - worth(a, xName) || worth(b, yName) - worth(a, yName));
    const kept = [];
    for (const one of order) {
      if (!kept.length || worth(one, yName) > worth(kept[kept.length - 1], yName)) kept.push(one);
    }
    return {
      x: kept.map((one) => one.values[xName]), y: kept.map((one) => one.values[yName]), mode: "lines", name: "frontier",
      line: { color: "#374151", width: 2, dash: "dot" }, hoverinfo: "skip",
    };
  }
  for (const select of [xSelect, ySelect]) {
    for (const [name, axis] of Object.entries(axes)) {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = axis.title;
      select.appendChild(option);
    }
    select.addEventListener("change", plot);
  }
  xSelect.value = "fit";
  ySelect.value = Object.keys(directions)[0];
  plot();
});
