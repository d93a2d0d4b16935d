"use strict";
(function () {
  // Plots, and one legend for all of them: a click hides a method, a double click shows it alone.
  const figures = report.read("figures");
  const configurations = report.read("configurations");
  for (const trace of figures.flatMap((figure) => figure.data)) {
    if (trace.customdata) trace.text = trace.text.map((line, index) => configurations[trace.customdata[index]] + "<br>" + line);
  }
  const places = figures.map((_, index) => report.byId("plot-" + index));
  figures.forEach((figure, index) => report.draw(places[index], figure));
  const beside = report.byId("shares");
  if (beside) report.draw(report.byId("shares-plot"), report.read("shares"));

  const buttons = Array.from(document.querySelectorAll(".legend button"));
  const isOn = (button) => button.getAttribute("aria-pressed") === "true";
  function show(shown) {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(shown(button))));
    const on = new Set(buttons.filter(isOn).map((button) => button.dataset.method));
    figures.forEach((figure, index) => {
      figure.data.forEach((trace) => { if (trace.meta !== undefined) trace.visible = on.has(trace.meta); });
      report.draw(places[index], figure);
    });
  }
  buttons.forEach((button) => {
    button.addEventListener("click", () => show((one) => (one === button ? !isOn(one) : isOn(one))));
    button.addEventListener("dblclick", () => {
      const alone = buttons.every((one) => one === button || !isOn(one));
      show((one) => alone || one === button);
    });
  });
})();
