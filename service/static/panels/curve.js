// A model that maps a number to a number: its curve, the points it was trained on, and any x.

import { aboutPath, modelPath, postJson } from "../api.js";
import { errorPlace, h, newId, trying } from "../elements.js";
import { jsonSnippets, snippetBox } from "../snippets.js";

const POINTS = 101; // of the curve
const WIDTH = 640;
const HEIGHT = 380;
const EDGE = { left: 56, right: 16, top: 16, bottom: 40 };

export const fits = ({ signatures }) => {
  const { inputs = {}, outputs = {} } = signatures.serving_default ?? {};
  const tensors = [...Object.values(inputs), ...Object.values(outputs)];
  return tensors.length === 2 && tensors.every(isNumberARow);
};

const isNumberARow = ({ datatype, shape }) =>
  /^(FP|BF|U?INT)/.test(datatype) && shape !== null && (shape.length === 1 || (shape.length === 2 && shape[1] === 1));

export function panel(model, about, first) {
  const version = about[first];
  const path = `${modelPath(version.name, version.version)}:predict`;
  const tried = `${aboutPath(version.name, version.version)}/predict`;
  const { inputs, outputs } = version.signatures.serving_default;
  const [xName] = Object.keys(inputs);
  const [yName] = Object.keys(outputs);
  const nested = inputs[xName].shape.length === 2;
  const entry = (x) => (nested ? [x] : x);
  const points = version.samples
    .filter(({ instance, expected }) => instance !== undefined && expected !== undefined)
    .map(({ instance, expected }) => [Number([instance].flat()[0]), Number(expected)]);
  const [low, high] = range(points.map(([x]) => x));
  const turn = new AbortController();

  /** NaN where JSON has null: what the model answers is not finite. */
  const predict = async (xs) => {
    const { predictions } = await postJson(tried, { instances: xs.map(entry) }, { signal: turn.signal });
    return predictions.flat(Infinity).map((y) => y ?? NaN);
  };

  const problem = errorPlace();
  const id = newId("x");
  const number = h("input", { id, type: "number", step: "any", value: "10", "aria-describedby": problem.element.id });
  const slider = h("input", {
    type: "range",
    min: String(low),
    max: String(high),
    step: String((high - low) / 200),
    value: "10",
    "aria-label": `Slider for ${xName}`,
  });
  const result = h("output", { class: "result", for: id, "aria-live": "polite" });
  const plot = h("div", { class: "plot" });
  const line = h("p", { class: "equation" });
  const snippets = h("div", {});
  let draw = () => {};
  let asked = 0;

  async function ask(text) {
    asked += 1;
    const mine = asked;
    await trying(problem, async () => {
      const x = Number(text);
      if (text.trim() === "" || !Number.isFinite(x)) throw new Error(`${xName}: expected a number, such as 10 or -0.5`);
      const [y] = await predict([x]);
      if (mine !== asked) return;
      result.textContent = Number.isFinite(y) ? `${yName} = ${tidy(y)}` : `${yName} is not a finite number`;
      draw(x, y);
      snippets.replaceChildren(snippetBox(jsonSnippets(path, { instances: [entry(x)] })));
    });
  }

  number.addEventListener("input", () => {
    slider.value = number.value;
    ask(number.value);
  });
  slider.addEventListener("input", () => {
    number.value = String(tidy(Number(slider.value)));
    ask(number.value);
  });

  /** A model may refuse some of these x, and still answer others. */
  async function showCurve() {
    const xs = Array.from({ length: POINTS }, (_, place) => low + ((high - low) * place) / (POINTS - 1));
    const none = errorPlace();
    plot.replaceChildren(none.element);
    await trying(none, async () => {
      const ys = await predict(xs);
      const chart = drawn(xs, ys, points, xName, yName, (x) => {
        number.value = slider.value = String(tidy(x));
        ask(number.value);
      });
      plot.replaceChildren(chart.element);
      draw = chart.mark;
      line.replaceChildren(...equation(xs, ys, xName, yName));
    });
  }

  showCurve().then(() => ask(number.value));

  const element = h(
    "div",
    { class: "curve-panel" },
    h("h1", {}, model.name),
    h(
      "p",
      { class: "lead" },
      `Enter ${xName}, and the model predicts ${yName}. `,
      points.length > 0 && `The ${points.length} dots are examples with known answers. `,
      "The line shows the predictions.",
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "card" },
        h("p", { class: "row" }, h("label", { for: id }, xName), number),
        slider,
        h("p", { class: "verdict" }, result),
        problem.element,
        line,
      ),
      h("div", { class: "card" }, plot),
    ),
    snippets,
  );
  return { element, leave: () => turn.abort() };
}

/** The ends of the x axis: the points, as much again on both sides, and 10. */
function range(xs) {
  if (!xs.length) return [-10, 10];
  const [least, most] = [Math.min(...xs), Math.max(...xs)];
  const margin = most - least || 1;
  return [Math.floor(least - margin), Math.ceil(Math.max(most + margin, 12))];
}

/** The equation of a straight line; nothing for another curve. */
function equation(xs, ys, xName, yName) {
  const last = xs.length - 1;
  const weight = (ys[last] - ys[0]) / (xs[last] - xs[0]);
  const bias = ys[0] - weight * xs[0];
  const size = Math.max(...ys.map(Math.abs)) || 1;
  if (!xs.every((x, place) => Math.abs(ys[place] - (weight * x + bias)) < 1e-4 * size)) return [];
  return [
    h("strong", {}, `${yName} = ${tidy(weight)} · ${xName} ${bias < 0 ? "−" : "+"} ${tidy(Math.abs(bias))}`),
    h("br"),
    h("span", { class: "note" }, `weight w = ${tidy(weight)}, bias b = ${tidy(bias)}`),
  ];
}

function tidy(value) {
  return Number(Number(value).toPrecision(5));
}

function drawn(xs, ys, points, xName, yName, choose) {
  const finite = [...ys, ...points.map(([, y]) => y)].filter(Number.isFinite);
  const all = finite.length ? finite : [0];
  const [left, right] = [xs[0], xs.at(-1)];
  const [bottom, top] = [Math.min(...all), Math.max(...all)];
  const tall = top - bottom || 1;
  const toX = (x) => EDGE.left + ((x - left) / (right - left)) * (WIDTH - EDGE.left - EDGE.right);
  const toY = (y) => HEIGHT - EDGE.bottom - ((y - bottom) / tall) * (HEIGHT - EDGE.top - EDGE.bottom);

  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.append(s("title", {}, `${yName} plotted against ${xName}`));
  for (const x of ticks(left, right)) {
    svg.append(s("line", { class: "grid", x1: toX(x), x2: toX(x), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
    svg.append(s("text", { x: toX(x), y: HEIGHT - EDGE.bottom + 18, "text-anchor": "middle" }, tidy(x)));
  }
  for (const y of ticks(bottom, top)) {
    svg.append(s("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: toY(y), y2: toY(y) }));
    svg.append(s("text", { x: EDGE.left - 8, y: toY(y) + 4, "text-anchor": "end" }, tidy(y)));
  }
  svg.append(s("text", { x: WIDTH - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }, xName));
  svg.append(s("text", { x: 8, y: EDGE.top + 4 }, yName));
  const pieces = [[]];
  xs.forEach((x, place) => {
    if (Number.isFinite(ys[place])) pieces.at(-1).push(`${toX(x).toFixed(1)},${toY(ys[place]).toFixed(1)}`);
    else pieces.push([]);
  });
  for (const piece of pieces) svg.append(s("polyline", { class: "learned", points: piece.join(" ") }));
  for (const [x, y] of points) svg.append(s("circle", { class: "point", cx: toX(x), cy: toY(y), r: 5 }));
  const marker = s("circle", { class: "marker", r: 7, visibility: "hidden" });
  svg.append(marker);

  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    const share = (place - EDGE.left) / (WIDTH - EDGE.left - EDGE.right);
    choose(left + Math.min(1, Math.max(0, share)) * (right - left));
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    move(event);
  });
  svg.addEventListener("pointermove", (event) => event.buttons && move(event));
  return {
    element: svg,
    mark(x, y) {
      const inside = x >= left && x <= right && y >= bottom && y <= top;
      marker.setAttribute("visibility", inside ? "visible" : "hidden");
      if (!inside) return;
      marker.setAttribute("cx", toX(x));
      marker.setAttribute("cy", toY(y));
    },
  };
}

function ticks(low, high) {
  const rough = (high - low) / 6 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

function s(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map(String));
  return element;
}
