// Making elements.

/** An element: attributes by name; `on...` are listeners, `dataset` is one object, false and null leave out. */
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

/** What went wrong, beside what caused it; read out as it appears. `clear()` takes it away. */
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

/** `work` with the error in its place, if there is one; what it gives, or undefined. */
export async function trying(place, work) {
  place.clear();
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") place.show(error);
    return undefined;
  }
}

/** Probabilities as bars, best first. `rankings`: [[label, score], ...]. */
export function bars(ranking) {
  return h(
    "ol",
    { class: "bars" },
    ranking.map(([label, score]) => {
      const share = Math.max(0, Math.min(1, Number(score) || 0));
      const fill = h("span", { class: "fill" });
      fill.style.inlineSize = `${share * 100}%`;
      return h(
        "li",
        {},
        h("span", { class: "label" }, label),
        h("span", { class: "track", "aria-hidden": "true" }, fill),
        h("span", { class: "score" }, percent(score)),
      );
    }),
  );
}

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(Number(share))) return "–";
  const value = 100 * share;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)} %`;
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
