"use strict";
// When the page is complete: the points are those of the table of all trials, which stands below.
document.addEventListener("DOMContentLoaded", () => {
  const { byId, digits } = report;
  const { configs, explained, methods } = report.read("parameters-data");
  const [methodSelect, metricSelect] = [byId("parameters-method"), byId("parameters-metric")];
  const option = (select, value, text) => {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = text;
    select.appendChild(one);
  };
  option(methodSelect, "", "all methods");
  Object.keys(configs).sort().forEach((method) => option(methodSelect, method, method));
  Object.keys(explained).forEach((metric) => option(metricSelect, metric, metric));

  /** A dimension of few values, evenly spaced. */
  function categories(name, values) {
    const texts = values.map((value) => (value === null || value === undefined ? "none" : typeof value === "string" ? value : JSON.stringify(value)));
    const distinct = Array.from(new Set(texts));
    const numeric = distinct.every((text) => text !== "" && Number.isFinite(Number(text)));
    distinct.sort(numeric ? (a, b) => Number(a) - Number(b) : undefined);
    if (numeric && distinct.length > 12) return numbers(name, texts.map(Number), (value) => digits(value, 3));
    const ticks = distinct.length > 12 ? [] : distinct.map((_, index) => index);
    return { label: name, values: texts.map((text) => distinct.indexOf(text)), tickvals: ticks, ticktext: ticks.map((index) => distinct[index]), range: [0, Math.max(1, distinct.length - 1)] };
  }
  /** A dimension of numbers, by their logarithms where they are positive and far apart. */
  function numbers(name, values, write) {
    const low = Math.min(...values), high = Math.max(...values);
    const log = low > 0 && high > 5 * low;
    const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => from + share * (to - from || 1));
    return { label: name, values: log ? values.map(Math.log10) : values, tickvals: ticks, ticktext: ticks.map((tick) => write(log ? 10 ** tick : tick)), range: [from, to > from ? to : from + 1] };
  }

  function show() {
    const [method, metric] = [methodSelect.value, metricSelect.value];
    const rows = explained[metric][method] || [];
    const all = report.configurations.filter((one) =>
      (method ? one.method === method && configs[method][one.parameters] : one.method !== "identity") && Number.isFinite(one.values[metric]));
    const narrow = document.documentElement.clientWidth < 640;
    const ranked = rows.map((row) => row[0]);
    const names = method
      ? Object.keys(Object.values(configs[method])[0]).sort((a, b) => (ranked.indexOf(a) + 1 || 99) - (ranked.indexOf(b) + 1 || 99)).slice(0, narrow ? 3 : 7)
      : [];
    const dimensions = method
      ? names.map((name) => categories(name, all.map((one) => configs[method][one.parameters][name])))
      : [categories("quantizer", all.map((one) => one.method))];
    const add = (name, key, write) => {
      const values = all.map((one) => one.values[key]);
      if (values.length && values.every(Number.isFinite)) dimensions.push(numbers(name, values, write));
    };
    add("payload", "payload", report.size);
    if (!narrow) add("fit", "fit", (value) => digits(value, 2) + " s");
    const others = method || narrow ? [] : Object.keys(explained).filter((name) => name !== metric).slice(0, 3);
    const last = (name) => name.split(".").pop();
    const alike = (name) => Object.keys(explained).filter((one) => last(one) === last(name)).length > 1;
    for (const name of [...others, metric]) add(alike(name) ? name : last(name), name, (value) => digits(value, 3));
    const shade = dimensions.length ? dimensions[dimensions.length - 1].values : [];
    report.draw(byId("parameters-plot"), {
      data: [{
        type: "parcoords", dimensions, labelangle: narrow ? -35 : 0, labelfont: { color: "#1f2937", size: narrow ? 10 : 12 },
        tickfont: { color: "#1f2937", size: narrow ? 9 : 11 }, rangefont: { color: "rgba(0,0,0,0)", size: 1 },
        line: { color: shade, colorscale: [[0, "#2f86cc"], [0.5, "#cf6aa4"], [1, "#dc9a1e"]], showscale: false },
        unselected: { line: { color: "#9ca3af", opacity: 0.1 } },
      }],
      layout: report.layout({ height: 420, margin: { l: narrow ? 40 : 90, r: narrow ? 34 : 70, t: narrow ? 80 : 50, b: 24 } }),
    });
    byId("parameters-none").hidden = rows.length > 0;
    byId("parameters-table").hidden = rows.length === 0;
    byId("parameters-rows").replaceChildren(...rows.map(([name, values, alone, atSize]) => {
      const line = document.createElement("tr");
      const cell = (text, share) => {
        const one = document.createElement("td");
        if (share === undefined) one.textContent = text;
        else {
          const bar = document.createElement("span");
          bar.className = "bar";
          bar.style.setProperty("--share", share);
          const told = document.createElement("div");
          told.append(bar, " " + Math.round(100 * share) + " %");
          one.appendChild(told);
        }
        line.appendChild(one);
      };
      cell(name);
      cell(String(values));
      cell("", atSize);
      cell("", alone);
      return line;
    }));
    report.stack(byId("parameters-table"));
  }
  methodSelect.addEventListener("change", show);
  metricSelect.addEventListener("change", show);
  show();
});
