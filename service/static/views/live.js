// Live: what the service does now, from its metrics.

import { ask } from "../api.js";
import { lineChart } from "../charts.js";
import { bytes, errorPlace, h } from "../elements.js";
import { parseMetrics, quantiles, total, totals } from "../metrics.js";

const PERIOD_MILLISECONDS = 2000;
const MAX_READINGS = 150; // five minutes
const MAX_LINES = 8;
const MAX_FEATURES = 20;
const ELSEWHERE =
  "This service has its metrics on another port (SERVING_OPERATIONS_PORT), so this page cannot show them. Grafana can.";
const [ALIKE, DIFFERENT] = [0.1, 0.25]; // PSI
const LOWER = 0.05; // than the card's accuracy
const MANY_OUTLIERS = 0.05;

export async function show(place) {
  const abort = new AbortController();
  const problem = errorPlace();
  const tiles = h("dl", { class: "tiles" });
  const accuracy = h("div");
  const drift = h("div", { class: "card" });
  const charts = h("div", { class: "charts" });
  const waiting = h("p", { class: "note" }, "Waiting for the first figures…");
  const figures = h("div", { hidden: true }, tiles, charts, accuracy, drift);
  place.append(
    h("h1", {}, "Live"),
    h("p", { class: "lead" }, "What the service is doing now, updated every two seconds."),
    problem.element,
    waiting,
    figures,
  );
  const drawn = [];
  let before = null;
  let timer = null;
  let isLeft = false;

  async function read() {
    try {
      const text = await (await ask("/metrics", { signal: abort.signal })).text();
      const now = { at: Date.now() / 1000, metrics: parseMetrics(text) };
      problem.clear();
      if (before) update(before, now);
      before = now;
    } catch (error) {
      if (error.name === "AbortError") return;
      before = null;
      waiting.hidden = true;
      problem.show(error.status === 404 ? ELSEWHERE : error);
      // These do not pass by waiting.
      if ([401, 404].includes(error.status)) return;
    }
    if (!isLeft) timer = setTimeout(read, PERIOD_MILLISECONDS);
  }

  function update(then, now) {
    const seconds = now.at - then.at;
    waiting.hidden = true;
    figures.hidden = false;
    showTiles(tiles, then.metrics, now.metrics, seconds);
    for (const chart of drawn) chart.add(now.at, then.metrics, now.metrics, seconds);
    showAccuracy(accuracy, now.metrics);
    showDrift(drift, now.metrics);
  }

  for (const kind of KINDS) drawn.push(await chartOf(charts, kind));
  if (!abort.signal.aborted) await read();
  return () => {
    isLeft = true;
    clearTimeout(timer);
    abort.abort();
    for (const chart of drawn) chart.leave();
  };
}

const rate = (then, now, name, seconds, wanted) =>
  Math.max(0, total(now, name, wanted) - total(then, name, wanted)) / seconds;

const modelOf = ({ model, version }) => (model ? `${model} ${version}` : "no model");
const NO_REQUESTS = "No requests since this page was opened.";

function rates(then, now, name, seconds, key) {
  const earlier = totals(then, name, key);
  return new Map(
    [...totals(now, name, key)].map(([of, value]) => [of, Math.max(0, value - (earlier.get(of) ?? 0)) / seconds]),
  );
}

/** The charts. `values`: from two readings, a number for each line. */
const KINDS = [
  {
    title: "Requests per second",
    none: NO_REQUESTS,
    values: (then, now, seconds) => rates(then, now, "serving_requests_total", seconds, modelOf),
  },
  {
    title: "Latency",
    none: NO_REQUESTS,
    unit: " ms",
    values(then, now) {
      const found = quantiles(then, now, "serving_request_duration_seconds", [0.5, 0.95, 0.99]);
      return new Map(["median", "95%", "99%"].map((name, at) => [name, found[at] === null ? null : 1000 * found[at]]));
    },
  },
  {
    title: "Errors per second, by status",
    none: "No errors since this page was opened.",
    values: (then, now, seconds) =>
      new Map(
        [...rates(then, now, "serving_requests_total", seconds, ({ status }) => status)].filter(([status]) => status >= "400"),
      ),
  },
  {
    title: "Rows per batch, on average",
    none: "No batches since this page was opened.",
    values(then, now, seconds) {
      const rows = rates(then, now, "serving_batch_size_sum", seconds, modelOf);
      const runs = rates(then, now, "serving_batch_size_count", seconds, modelOf);
      return new Map([...rows].map(([of, sum]) => [of, runs.get(of) ? sum / runs.get(of) : null]));
    },
  },
];

async function chartOf(charts, { title, none, unit = "", values }) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${title}, over the last minutes` });
  const note = h("p", { class: "note" }, none);
  charts.append(h("section", { class: "card" }, h("h2", {}, title), note, plot));
  const times = [];
  const lines = new Map();
  let chart = null;
  let shown = 0;

  /** A model's first request adds a line; then the chart is made anew. */
  async function draw() {
    const series = [...lines].map(([label, found]) => ({ label, values: found }));
    if (!series.length) return;
    note.hidden = true;
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
        const isNew = !lines.has(name) && value > 0 && lines.size < MAX_LINES;
        if (isNew) lines.set(name, new Array(times.length - 1).fill(null));
      }
      for (const [name, line] of lines) line.push(found.get(name) ?? null);
      if (times.length > MAX_READINGS) [times, ...lines.values()].forEach((row) => row.shift());
      draw();
    },
    leave: () => chart?.leave(),
  };
}

function showTiles(tiles, then, now, seconds) {
  const failed = rate(then, now, "serving_requests_total", seconds, ({ status }) => status >= "500");
  const requests = rate(then, now, "serving_requests_total", seconds);
  const values = [
    ["Requests per second", requests.toFixed(requests < 10 ? 1 : 0)],
    ["Server errors", `${(requests ? (100 * failed) / requests : 0).toFixed(1)}%`],
    ["Rejected per second", rate(then, now, "serving_rejected_total", seconds).toFixed(1)],
    ["Rows in queue", String(total(now, "serving_queue_length"))],
    ["CPU cores in use", rate(then, now, "serving_process_cpu_seconds_total", seconds).toFixed(2)],
    ["Memory", bytes(total(now, "serving_process_resident_memory_bytes"))],
    ["Workers", String(total(now, "serving_workers"))],
  ];
  tiles.replaceChildren(...values.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Nothing while nothing is known of any version. */
function showAccuracy(place, metrics) {
  const of = (name) => totals(metrics, name, modelOf);
  const [expected, observed] = [of("serving_expected_accuracy"), of("serving_observed_accuracy")];
  const [rows, cards, outliers] = ["serving_observed_rows", "serving_card_accuracy", "serving_drift_window_outliers"].map(of);
  const versions = [...new Set([...expected.keys(), ...rows.keys()])];
  if (!versions.length) return place.replaceChildren();
  const row = (version) => {
    const [card, foreign] = [cards.get(version), outliers.get(version)];
    const share = (value) => h("span", { class: card - value > LOWER ? "high" : "low" }, percent(value));
    return [
      version,
      share(expected.get(version)),
      h("span", { class: foreign > MANY_OUTLIERS ? "high" : "low" }, percent(foreign)),
      share(observed.get(version)),
      String(rows.get(version) ?? 0),
      percent(card),
    ];
  };
  const what =
    "Expected is what the confidence of recent predictions promises. Observed is how many were right, by the labels that " +
    `clients gave later as feedback. Do not trust the expected figure with more than ${100 * MANY_OUTLIERS}% of outliers.`;
  const heads = ["Version", "Expected", "Outliers", "Observed", "Rows with feedback", "On the model card"];
  place.replaceChildren(
    h(
      "div",
      { class: "card" },
      h("h2", {}, "Accuracy"),
      h("p", { class: "note" }, what),
      table("Accuracy by version", heads, versions.map(row)),
    ),
  );
}

const percent = (share) => (share === undefined ? "–" : `${(100 * share).toFixed(1)}%`);

function showDrift(place, metrics) {
  const watched = metrics.serving_drift_window_rows ?? [];
  const seen = totals(metrics, "serving_drift_window_rows", modelOf);
  const features = (metrics.serving_drift_psi ?? [])
    .filter(({ value }) => Number.isFinite(value))
    .sort((a, b) => b.value - a.value)
    .slice(0, MAX_FEATURES);
  const parts = [h("h2", {}, "Drift")];
  if (!watched.length) {
    const why = "SERVING_DRIFT_WINDOW is 0, or no version has a reference.json with its training data.";
    parts.push(h("p", { class: "note" }, `Drift is not measured here: ${why}`));
  } else {
    const what =
      "How much recent requests differ from the training data, as a population stability index (PSI). " +
      `Up to ${ALIKE} they are alike, above ${DIFFERENT} they are not.`;
    parts.push(h("p", { class: "note" }, what));
    parts.push(features.length ? driftTable(features, seen) : h("p", {}, "Too few requests so far to tell."));
  }
  place.replaceChildren(...parts);
}

function driftTable(features, seen) {
  const row = ({ labels, value }) => [
    modelOf(labels),
    labels.feature,
    h("span", { class: value > DIFFERENT ? "high" : value > ALIKE ? "middle" : "low" }, value.toFixed(3)),
    String(seen.get(modelOf(labels)) ?? "–"),
  ];
  return table("Drift by feature", ["Version", "Feature", "PSI", "Rows seen"], features.map(row));
}

/** `rows`: the cells of each. */
function table(label, heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))),
    ),
  );
}
