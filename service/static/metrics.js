// The page that Prometheus scrapes, read by a browser.

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** {name: [{labels, value}]} of the text. */
export function parseMetrics(text) {
  const found = {};
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) continue;
    const match = SAMPLE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replaceAll(/\\(.)/g, (_, mark) => (mark === "n" ? "\n" : mark));
    }
    (found[match[1]] ??= []).push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

/** The sum of a metric's samples, of those that `wanted` keeps. */
export function total(metrics, name, wanted = () => true) {
  return (metrics[name] ?? []).reduce((sum, { labels, value }) => (wanted(labels) ? sum + value : sum), 0);
}

/** Sums by what `key(labels)` gives. */
export function totals(metrics, name, key) {
  const sums = new Map();
  for (const { labels, value } of metrics[name] ?? []) {
    const of = key(labels);
    sums.set(of, (sums.get(of) ?? 0) + value);
  }
  return sums;
}

/**
 * The quantiles of what a histogram counted between two readings, each within its bucket as Prometheus's
 * histogram_quantile has it; null where nothing was.
 */
export function quantiles(before, after, name, wantedQuantiles) {
  const bounds = new Map();
  for (const [metrics, sign] of [
    [after, 1],
    [before, -1],
  ]) {
    for (const [bound, count] of totals(metrics, `${name}_bucket`, ({ le }) => Number(le.replace("+Inf", "Infinity")))) {
      bounds.set(bound, (bounds.get(bound) ?? 0) + sign * count);
    }
  }
  const buckets = [...bounds].sort(([a], [b]) => a - b);
  const all = buckets.at(-1)?.[1] ?? 0;
  return wantedQuantiles.map((quantile) => {
    if (all <= 0) return null;
    const rank = quantile * all;
    const place = buckets.findIndex(([, count]) => count >= rank);
    const [bound, count] = buckets[place];
    const [lower, below] = place ? buckets[place - 1] : [0, 0];
    // What is above the last bound has no upper one.
    return bound === Infinity ? lower : lower + ((bound - lower) * (rank - below)) / (count - below || 1);
  });
}
