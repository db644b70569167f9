// A picture drawn with mouse, finger or pen.

import { h } from "../elements.js";

const SIDE = 224;

/** `image`: how the model takes pictures. If its ground is black, the lines are white. */
export function drawingBoard(image, take) {
  const [ground, ink] = image.ground === "black" ? ["#000", "#fff"] : ["#fff", "#222"];
  const canvas = h("canvas", { width: SIDE, height: SIDE, class: "board", role: "img", "aria-label": "Drawing board" });
  const context = canvas.getContext("2d");
  let last = null;

  function clear() {
    context.fillStyle = ground;
    context.fillRect(0, 0, SIDE, SIDE);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
  }

  function line(event) {
    if (!last) return;
    const next = place(event);
    context.strokeStyle = ink;
    context.lineWidth = SIDE / 10;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
  }

  function done() {
    if (!last) return;
    last = null;
    canvas.toBlob((picture) => picture && take(picture, "drawing.png"), "image/png");
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(event);
  });
  canvas.addEventListener("pointermove", line);
  canvas.addEventListener("pointerup", done);
  canvas.addEventListener("pointercancel", done);
  clear();
  return h(
    "details",
    { class: "drawing" },
    h("summary", {}, "Draw a picture"),
    canvas,
    h("button", { type: "button", onclick: clear }, "Clear"),
  );
}
