// Line charts, drawn by uPlot, which is fetched with the first chart.

import { h } from "./elements.js";

const FOLDER = "/static/vendor/uplot-1.6.32";
// Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow: it is too faint on white.
const COLOURS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#6a3d9a"];

let loading = null;

function load() {
  loading ??= new Promise((resolve, reject) => {
    document.head.append(h("link", { rel: "stylesheet", href: `${FOLDER}/uPlot.min.css` }));
    document.head.append(
      h("script", {
        src: `${FOLDER}/uPlot.iife.min.js`,
        onload: () => resolve(window.uPlot),
        onerror: () => reject(new Error("The charts could not be loaded.")),
      }),
    );
  });
  return loading;
}

export const colour = (place) => COLOURS[place % COLOURS.length];

/**
 * A chart as wide as `place`. `x`: numbers; seconds since 1970 if `time` is set. `series`: [{label, values}].
 * `under(context, toPixels, box)` paints behind the lines. Returns {update(x, series), redraw(), leave()}.
 */
export async function lineChart(place, { x, series, height = 220, time = false, unit = "", fromZero = false, under = () => {} }) {
  const UPlot = await load();
  const axis = () => {
    const style = getComputedStyle(place);
    return {
      stroke: style.getPropertyValue("color"),
      grid: { stroke: "rgba(128, 128, 128, .2)", width: 1 },
      ticks: { show: false },
    };
  };
  const written = (value) => (value === null || value === undefined ? "–" : `${Number(value.toPrecision(3))}${unit}`);
  const options = {
    width: Math.max(place.clientWidth, 200),
    height,
    scales: { x: { time }, y: fromZero ? { range: (_, __, most) => [0, 1.05 * most || 1] } : {} },
    axes: [axis(), { ...axis(), size: 64, values: (_, values) => values.map(written) }],
    series: [
      { label: time ? "time" : "step" },
      ...series.map(({ label }, number) => ({
        label,
        stroke: colour(number),
        width: 1.5,
        points: { show: false },
        value: (_, value) => written(value),
      })),
    ],
    legend: { live: true },
    cursor: { drag: { x: false, y: false } },
    hooks: {
      drawClear: [(chart) => under(chart.ctx, (value) => chart.valToPos(value, "x", true), chart.bbox)],
    },
  };
  const data = (xs, lines) => [xs, ...lines.map(({ values }) => values)];
  const chart = new UPlot(options, data(x, series), place);
  const observer = new ResizeObserver(() => chart.setSize({ width: Math.max(place.clientWidth, 200), height }));
  observer.observe(place);
  return {
    update: (xs, lines) => chart.setData(data(xs, lines)),
    redraw: () => chart.redraw(false),
    leave() {
      observer.disconnect();
      chart.destroy();
    },
  };
}
