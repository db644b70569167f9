// The Prometheus text format, parsed in the browser.

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** {name: [{labels, value}]}. */
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

/** The sum of a metric's samples whose labels `wanted` accepts. */
export function total(metrics, name, wanted = () => true) {
  return (metrics[name] ?? []).reduce((sum, { labels, value }) => (wanted(labels) ? sum + value : sum), 0);
}

/** Sums by `key(labels)`. */
export function totals(metrics, name, key) {
  const sums = new Map();
  for (const { labels, value } of metrics[name] ?? []) {
    const of = key(labels);
    sums.set(of, (sums.get(of) ?? 0) + value);
  }
  return sums;
}

/**
 * Quantiles of what a histogram counted between two readings, interpolated within a bucket as by Prometheus's
 * histogram_quantile; null if it counted nothing.
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
    // The last bucket has no upper bound.
    return bound === Infinity ? lower : lower + ((bound - lower) * (rank - below)) / (count - below || 1);
  });
}
