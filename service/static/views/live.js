// What the service does now, by its own metrics.

import { ask } from "../api.js";
import { lineChart } from "../charts.js";
import { bytes, errorPlace, h } from "../elements.js";
import { parseMetrics, quantiles, total, totals } from "../metrics.js";

const PERIOD_MILLISECONDS = 2000;
const MOST_READINGS = 150; // five minutes
const MOST_LINES = 8;
const ELSEWHERE = "The metrics are on a port of their own here (SERVING_OPERATIONS_PORT); Grafana shows them.";
const [SLIGHT, MUCH] = [0.1, 0.25]; // of the PSI

export async function show(place) {
  const turn = new AbortController();
  const problem = errorPlace();
  const tiles = h("dl", { class: "tiles" });
  const drift = h("div", { class: "card" });
  const charts = h("div", { class: "charts" });
  place.append(
    h("h1", {}, "Live"),
    h("p", { class: "lead" }, "Drawn from /metrics every two seconds, for as long as this page is open."),
    problem.element,
    tiles,
    charts,
    drift,
  );
  const drawn = [];
  let before = null;
  let timer = null;
  let isLeft = false;

  async function read() {
    try {
      const text = await (await ask("/metrics", { signal: turn.signal })).text();
      const now = { at: Date.now() / 1000, metrics: parseMetrics(text) };
      problem.clear();
      if (before) update(before, now);
      before = now;
    } catch (error) {
      if (error.name === "AbortError") return;
      before = null;
      problem.show(error.status === 404 ? ELSEWHERE : error);
    }
    if (!isLeft) timer = setTimeout(read, PERIOD_MILLISECONDS);
  }

  function update(then, now) {
    const seconds = now.at - then.at;
    showTiles(tiles, then.metrics, now.metrics, seconds);
    for (const chart of drawn) chart.add(now.at, then.metrics, now.metrics, seconds);
    showDrift(drift, now.metrics);
  }

  for (const kind of KINDS) drawn.push(await chartOf(charts, kind));
  if (!turn.signal.aborted) await read();
  return () => {
    isLeft = true;
    clearTimeout(timer);
    turn.abort();
    for (const chart of drawn) chart.leave();
  };
}

const rate = (then, now, name, seconds, wanted) =>
  Math.max(0, total(now, name, wanted) - total(then, name, wanted)) / seconds;

const modelOf = ({ model, version }) => (model ? `${model} ${version}` : "no model");

function rates(then, now, name, seconds, key) {
  const earlier = totals(then, name, key);
  return new Map(
    [...totals(now, name, key)].map(([of, value]) => [of, Math.max(0, value - (earlier.get(of) ?? 0)) / seconds]),
  );
}

/** Each gives, of two readings, a number by line. */
const KINDS = [
  {
    title: "Requests a second",
    values: (then, now, seconds) => rates(then, now, "serving_requests_total", seconds, modelOf),
  },
  {
    title: "Latency",
    unit: " ms",
    values(then, now) {
      const found = quantiles(then, now, "serving_request_duration_seconds", [0.5, 0.95, 0.99]);
      return new Map(["median", "95 %", "99 %"].map((name, at) => [name, found[at] === null ? null : 1000 * found[at]]));
    },
  },
  {
    title: "Errors a second, by status",
    values: (then, now, seconds) =>
      new Map(
        [...rates(then, now, "serving_requests_total", seconds, ({ status }) => status)].filter(([status]) => status >= "400"),
      ),
  },
  {
    title: "Rows run together (mean)",
    values(then, now, seconds) {
      const rows = rates(then, now, "serving_batch_size_sum", seconds, modelOf);
      const runs = rates(then, now, "serving_batch_size_count", seconds, modelOf);
      return new Map([...rows].map(([of, sum]) => [of, runs.get(of) ? sum / runs.get(of) : null]));
    },
  },
];

async function chartOf(charts, { title, unit = "", values }) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${title}, over the last minutes` });
  const none = h("p", { class: "note" }, "Nothing yet.");
  charts.append(h("section", { class: "card" }, h("h2", {}, title), none, plot));
  const times = [];
  const lines = new Map();
  let chart = null;
  let shown = 0;

  /** Lines come up as models are asked; then the chart is made anew. */
  async function draw() {
    const series = [...lines].map(([label, found]) => ({ label, values: found }));
    if (!series.length) return;
    none.hidden = true;
    if (chart && shown === series.length) chart.update(times, series);
    else {
      shown = series.length;
      chart?.leave();
      chart = null;
      chart = await lineChart(plot, { x: times, series, height: 190, time: true, fromZero: true, unit });
    }
  }

  return {
    add(at, then, now, seconds) {
      const found = values(then, now, seconds);
      times.push(at);
      for (const [name, value] of found) {
        const isNew = !lines.has(name) && value > 0 && lines.size < MOST_LINES;
        if (isNew) lines.set(name, new Array(times.length - 1).fill(null));
      }
      for (const [name, line] of lines) line.push(found.get(name) ?? null);
      if (times.length > MOST_READINGS) [times, ...lines.values()].forEach((row) => row.shift());
      draw();
    },
    leave: () => chart?.leave(),
  };
}

function showTiles(tiles, then, now, seconds) {
  const failed = rate(then, now, "serving_requests_total", seconds, ({ status }) => status >= "500");
  const asked = rate(then, now, "serving_requests_total", seconds);
  const values = [
    ["Requests a second", asked.toFixed(asked < 10 ? 1 : 0)],
    ["Server errors", `${(asked ? (100 * failed) / asked : 0).toFixed(1)} %`],
    ["Turned away a second", rate(then, now, "serving_rejected_total", seconds).toFixed(1)],
    ["Rows waiting", String(total(now, "serving_queue_length"))],
    ["Processor cores", rate(then, now, "serving_process_cpu_seconds_total", seconds).toFixed(2)],
    ["Memory", bytes(total(now, "serving_process_resident_memory_bytes"))],
    ["Workers", String(total(now, "serving_workers"))],
  ];
  tiles.replaceChildren(...values.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function showDrift(place, metrics) {
  const rows = (metrics.serving_drift_psi ?? [])
    .filter(({ value }) => Number.isFinite(value))
    .sort((a, b) => b.value - a.value)
    .slice(0, 20);
  const seen = totals(metrics, "serving_drift_window_rows", modelOf);
  place.replaceChildren(
    h("h2", {}, "Drift"),
    h(
      "p",
      { class: "note" },
      `How far the last requests are from the training data (PSI): up to ${SLIGHT} is alike, above ${MUCH} is not.`,
    ),
    rows.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Drift by feature" },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h("tr", {}, ["Version", "Feature", "PSI", "Rows seen"].map((text) => h("th", { scope: "col" }, text))),
            ),
            h(
              "tbody",
              {},
              rows.map(({ labels, value }) =>
                h(
                  "tr",
                  {},
                  h("td", {}, modelOf(labels)),
                  h("td", {}, labels.feature),
                  h("td", { class: value > MUCH ? "high" : value > SLIGHT ? "middle" : "low" }, value.toFixed(3)),
                  h("td", {}, String(seen.get(modelOf(labels)) ?? "–")),
                ),
              ),
            ),
          ),
        )
      : h("p", {}, "Not enough requests yet to tell."),
  );
}
