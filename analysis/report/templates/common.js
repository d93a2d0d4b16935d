"use strict";
// What every panel's script uses: numbers, colours of the theme, figures, tables.
const report = (function () {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const root = document.documentElement;

  function digits(value, count) {
    if (value === 0) return "0";
    const magnitude = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(count)))));
    if (magnitude < -4) return value.toExponential(count - 1);
    const decimals = Math.max(0, count - 1 - magnitude);
    return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }
  const size = (value) => digits(value / Number(root.dataset.unitBytes), 3) + " " + root.dataset.unit;

  // Light or dark: as the system is, until the button says otherwise.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  // Colours that cannot be seen on a dark page, and what stands for them there.
  const ON_DARK = {
    "#111111": "#f1f5f9", "#1f2937": "#dbe3ee", "#111827": "#f1f5f9", "#374151": "#cbd5e1", "#9ca3af": "#7d8ba0",
    "#e5e7eb": "#2a3443", "white": "#151c27", "#0072b2": "#4aa8e0", "#332288": "#9a90f0", "#882255": "#dc6b9f",
    "#117733": "#4cbf7d", "#aa4499": "#d57cc6", "rgba(17,17,17,0.45)": "rgba(241,245,249,0.45)",
  };
  root.classList.toggle("dark", isDark());
  const colour = (name) => (isDark() && ON_DARK[name.toLowerCase()]) || name;
  function themed(value) {
    if (typeof value === "string") return value.length < 22 ? colour(value) : value;
    if (Array.isArray(value)) return typeof value[0] === "object" && value[0] !== null ? value.map(themed) : value;
    if (value === null || typeof value !== "object") return value;
    const out = {};
    for (const [key, inner] of Object.entries(value)) out[key] = key === "text" && Array.isArray(inner) ? inner : themed(inner);
    return out;
  }

  // Figures are drawn when they come into view, and again when the theme changes. Plotly, which is large, is at the end of the
  // page, so that what is to be read is there before it.
  const figures = new Map();
  let complete = false;
  const waiting = new IntersectionObserver((entries) => {
    const idle = queue.length === 0;
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      waiting.unobserve(entry.target);
      queue.push(entry.target);
    }
    if (idle && queue.length) drawNext();
  }, { rootMargin: "400px" });
  // One at a time: the first is seen while the others are being drawn.
  const queue = [];
  function drawNext() {
    figures.get(queue[0]).seen = true;
    redraw(queue[0]);
    queue.shift();
    if (queue.length) requestAnimationFrame(() => setTimeout(drawNext));
  }
  function redraw(place) {
    const known = figures.get(place);
    if (!known.seen) return;
    if (typeof known.figure === "function") known.figure = known.figure();
    const figure = known.figure;
    const layout = { ...themed(figure.layout), paper_bgcolor: colour("white"), plot_bgcolor: "rgba(0,0,0,0)" };
    Plotly.react(place, themed(figure.data), layout, { responsive: true, displayModeBar: false });
  }
  /** Show a figure {data, layout}, or what a function gives then, in an element, now or as soon as it is in view. */
  function draw(place, figure) {
    const known = figures.get(place);
    figures.set(place, { figure, seen: known !== undefined && known.seen });
    if (known !== undefined) redraw(place);
    else if (complete) waiting.observe(place);
  }
  /** The layout that all figures of scripts start from. */
  function layout(more) {
    const font = { family: "system-ui, sans-serif", size: 12, color: "#1f2937" };
    return {
      showlegend: false, height: 440, margin: { l: 64, r: 16, t: 12, b: 48 }, font,
      hoverlabel: { bgcolor: "white", font: { ...font, color: "#111827" } }, ...more,
    };
  }
  /** An axis of positive numbers, logarithmic, with a size's ticks in the page's unit. */
  function logAxis(values, write) {
    const low = Math.min(...values), high = Math.max(...values);
    let ticks = [];
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        ticks.push(...steps.map((step) => step * 10 ** power).filter((tick) => tick >= low / 1.3 && tick <= high * 1.3));
      }
      if (ticks.length <= 8) break;
    }
    return { type: "log", tickvals: ticks, ticktext: ticks.map(write), gridcolor: "#e5e7eb" };
  }

  function applyTheme() {
    root.classList.toggle("dark", isDark());
    document.querySelectorAll("svg.mark polygon").forEach((mark) => mark.setAttribute("fill", colour(mark.dataset.fill)));
    const button = byId("theme");
    button.textContent = isDark() ? "Light" : "Dark";
    for (const place of figures.keys()) redraw(place);
  }

  /** On a narrow page a table's rows are cards: each cell is told the heading of its column. */
  function stack(table) {
    const headings = Array.from(table.querySelectorAll("thead th"), (cell) => cell.textContent.replace(/\.\s+/g, ".").replace(/ [↓↑]$/, "").replace(/[._]/g, "$&\u200b"));
    table.querySelectorAll("tbody tr").forEach((line) => {
      Array.from(line.children).forEach((cell, index) => { cell.dataset.label = headings[index] || ""; });
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    byId("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      applyTheme();
    });
    system.addEventListener("change", applyTheme);
    document.querySelectorAll(".command .copy").forEach((button) => button.addEventListener("click", () => {
      const line = button.parentElement.querySelector("pre");
      const range = document.createRange();
      range.selectNodeContents(line);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy"); // the clipboard of navigator is not there on pages that were opened from a file
      button.textContent = "Copied";
    }));
    document.querySelectorAll("table.stack").forEach(stack);
    applyTheme();
    complete = true;
    for (const place of figures.keys()) waiting.observe(place);
  });
  return { byId, read, digits, size, draw, layout, logAxis, stack, isDark };
})();
