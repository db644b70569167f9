// Try: the list of models, and a panel that fits the chosen one.

import { aboutPath, getJson } from "../api.js";
import { h } from "../elements.js";

// The first that fits is shown.
const PANELS = [
  () => import("../panels/picture.js"),
  () => import("../panels/curve.js"),
  () => import("../panels/recording.js"),
  () => import("../panels/tensors.js"),
];

export async function show(place, [wanted]) {
  const { models } = await getJson("/playground/models");
  if (!models.length) {
    place.append(
      h("h1", {}, "No models yet"),
      h("p", {}, "Put a SavedModel into the models folder as <name>/1/, then reload this page."),
    );
    return undefined;
  }
  const model = models.find(({ name }) => name === wanted) ?? models.find(isServed) ?? models[0];
  const stage = h("section", { class: "stage", "aria-live": "off" });
  place.append(
    h(
      "nav",
      { class: "chooser", "aria-label": "Models" },
      models.map((each) =>
        h(
          "a",
          { href: `#/try/${encodeURIComponent(each.name)}`, "aria-current": each === model && "true" },
          each.name,
          !isServed(each) && h("span", { class: "note" }, " not served"),
        ),
      ),
    ),
    stage,
  );
  place.querySelector(".chooser [aria-current]").scrollIntoView({ block: "nearest" });
  if (wanted && model.name !== wanted) {
    stage.append(h("p", { class: "error", role: "alert" }, `There is no model named ${wanted}. Here is ${model.name}.`));
  }
  const served = model.versions.filter(({ state }) => state === "AVAILABLE").map(({ version }) => version);
  if (!served.length) {
    stage.append(
      h("h1", {}, model.name),
      ...model.versions.map(({ version, state, error }) => h("p", {}, `Version ${version} is not served (${state}). ${error}`)),
    );
    return undefined;
  }
  const about = await Promise.all(served.map((version) => getJson(aboutPath(model.name, version))));
  const first = Math.max(0, served.indexOf(model.default));
  for (const load of PANELS) {
    const { fits, panel } = await load();
    if (fits(about[first])) {
      const { element, leave } = panel(model, about, first);
      stage.append(element);
      return leave;
    }
  }
  return undefined;
}

const isServed = ({ versions }) => versions.some(({ state }) => state === "AVAILABLE");
