// Elements, and how words and numbers are written.

/** An element. `on...` attributes are listeners, `dataset` is an object; false and null are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let made = 0;

/** An id that nothing else on the page has. */
export function newId(stem) {
  made += 1;
  return `${stem}-${made}`;
}

/** A place for an error message, which screen readers read out. */
export function errorPlace() {
  const place = h("p", { class: "error", role: "alert", id: newId("error"), hidden: true });
  return {
    element: place,
    show(error) {
      place.textContent = error instanceof Error ? error.message : String(error);
      place.hidden = false;
    },
    clear() {
      place.hidden = true;
      place.textContent = "";
    },
  };
}

/** The result of `work`; or undefined, with the error shown in its place. */
export async function trying(place, work) {
  place.clear();
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") place.show(error);
    return undefined;
  }
}

/** How far the sum of probabilities in low precision may be from 1. */
const SUM_TOLERANCE = 0.05;

function areProbabilities(ranking) {
  const scores = ranking.map(([, score]) => score);
  const sum = scores.reduce((total, score) => total + score, 0);
  return scores.every((score) => score >= 0 && score <= 1) && Math.abs(sum - 1) <= SUM_TOLERANCE;
}

/** How a score of the ranking is written: only probabilities have percent. */
export function scoreText(ranking) {
  if (areProbabilities(ranking)) return percent;
  return (score) => (Number.isFinite(score) ? String(Number(score.toPrecision(4))) : "–");
}

/** What the model says, how sure it is, and whether that is right. `ranking`: [[label, score], ...], best first.
 * `expected`: the right label, if it is known. */
export function verdict(ranking, expected) {
  const [[label, score]] = ranking;
  const text = scoreText(ranking)(score);
  const sure = areProbabilities(ranking)
    ? `${score < 0.6 ? "only " : ""}${text} sure`
    : `score ${text}, which is no probability`;
  const right = !expected ? "" : expected === label ? " Correct." : ` Wrong: the right label is ${expected}.`;
  return [h("strong", {}, label), `: ${sure}.${right}`];
}

const MAX_LISTED = 20;

/** Labels in a sentence: a thousand are not read. */
export function listed(labels) {
  const more = labels.length - MAX_LISTED;
  return labels.slice(0, MAX_LISTED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** What a signature says of a tensor, such as "FP32 [any, 28, 28]". */
export function tensorText({ datatype, shape }) {
  return `${datatype} ${shape === null ? "of any shape" : `[${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`}`;
}

/** A value as JSON, with each innermost list on one line. */
export function json(value) {
  const text = JSON.stringify(value, null, 1);
  const oneLine = (_, values) => `[${values.replaceAll(/\n\s*/g, " ")}]`;
  const compact = text.replaceAll(/\[\n\s*([^[\]{}]*?)\s*\n\s*\]/g, oneLine);
  return h("pre", { class: "json", tabindex: "0" }, compact);
}

/** Scores as bars: probabilities from 0 to 1, others from the least to the largest. `ranking`: best first. */
export function bars(ranking) {
  const text = scoreText(ranking);
  const scores = ranking.map(([, score]) => score).filter(Number.isFinite);
  const [least, most] = areProbabilities(ranking) ? [0, 1] : [Math.min(...scores), Math.max(...scores)];
  return h(
    "ol",
    { class: "bars" },
    ranking.map(([label, score]) => {
      const share = Number.isFinite(score) ? (score - least) / (most - least) || 0 : 0;
      const fill = h("span", { class: "fill" });
      fill.style.inlineSize = `${share * 100}%`;
      return h(
        "li",
        {},
        h("span", { class: "label" }, label),
        h("span", { class: "track", "aria-hidden": "true" }, fill),
        h("span", { class: "score" }, text(score)),
      );
    }),
  );
}

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(Number(share))) return "–";
  const value = 100 * share;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)}%`;
}

/** Fewer examples are counted; a share of them would say more than they can. */
const MIN_FOR_SHARE = 100;

/** The accuracy as a share of the test examples, or "9 of 9" if they are few. `test_size`: null if unknown. */
export function accuracyText({ accuracy, test_size: size }) {
  return size !== null && size < MIN_FOR_SHARE ? `${Math.round(accuracy * size)} of ${size}` : percent(accuracy);
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}
