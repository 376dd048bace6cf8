"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const input = slider.querySelector("input");
  const show = () => slider.style.setProperty("--at", input.value + "%");
  const move = (event) => {
    const box = slider.getBoundingClientRect();
    input.value = Math.round(100 * (event.clientX - box.left) / box.width);
    show();
  };
  input.addEventListener("input", show);
  slider.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    slider.setPointerCapture(event.pointerId);
    move(event);
    input.focus({ preventScroll: true });
    event.preventDefault();
  });
  slider.addEventListener("pointermove", (event) => {
    if (slider.hasPointerCapture(event.pointerId)) move(event);
  });
  show();
}
for (const button of document.querySelectorAll(".tabs button")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll(".tabs button"))
      other.setAttribute("aria-pressed", String(other === button));
    for (const view of document.querySelectorAll(".view"))
      view.hidden = view.dataset.view !== button.dataset.view;
  });
}
const readouts = JSON.parse(document.getElementById("data").textContent).readouts;
for (const plot of document.querySelectorAll(".plot")) {
  const points = readouts[Number(plot.dataset.chart)].points;
  const label = plot.parentElement.querySelector("header span");
  const cursor = plot.querySelector(".cursor"), dot = plot.querySelector(".dot");
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = 100 * (event.clientX - box.left) / box.width;
    let best = points[0];
    for (const point of points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
    cursor.style.display = "block";
    cursor.style.left = best[0] + "%";
    dot.style.top = best[1] + "%";
    label.textContent = (best[5] ? best[5] + " " : "") + "step " + best[2] + ": " + best[3]
      + " (average " + best[4] + ")";
  });
  plot.addEventListener("pointerleave", () => {
    cursor.style.display = "none";
    label.textContent = label.dataset.default;
  });
}
