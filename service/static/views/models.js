// What is served: every version with its state, and what its own files say of it.

import { aboutPath, ask, filePath, getJson } from "../api.js";
import { bytes, errorPlace, h, percent, trying } from "../elements.js";
import { rendered } from "../markdown.js";

const FIGURES = /\.(png|jpe?g)$/;

export async function show(place, [model, version]) {
  const { models } = await getJson("/playground/models");
  const turn = new AbortController();
  const urls = [];
  const details = h("section", { class: "details" });
  place.append(h("h1", {}, "Models"), table(models, model, version), details);
  const known = models.find(({ name }) => name === model)?.versions.find((one) => String(one.version) === version);
  if (known) await trying(errorPlaceIn(details), () => describe(details, model, known, turn.signal, urls));
  else if (model) errorPlaceIn(details).show(`There is no version ${version} of ${model} here.`);
  return () => {
    turn.abort();
    urls.forEach(URL.revokeObjectURL);
  };
}

function errorPlaceIn(element) {
  const place = errorPlace();
  element.append(place.element);
  return place;
}

function table(models, model, chosen) {
  const rows = models.flatMap(({ name, labels, versions, default: answering }) =>
    versions.map(({ version, state, error, engine, load_seconds: seconds }) => {
      const isChosen = name === model && String(version) === chosen;
      const named = Object.entries(labels).filter(([, number]) => number === version).map(([label]) => label);
      return h(
        "tr",
        { class: isChosen && "chosen" },
        h(
          "th",
          { scope: "row" },
          h("a", { href: `#/models/${encodeURIComponent(name)}/${version}`, "aria-current": isChosen && "true" }, `${name} ${version}`),
        ),
        h("td", {}, [version === answering && "default", ...named].filter(Boolean).join(", ") || "–"),
        h("td", {}, h("span", { class: `state ${state.toLowerCase()}` }, state), error && h("p", { class: "note" }, error)),
        h("td", {}, engine || "–"),
        h("td", { class: "number" }, state === "AVAILABLE" ? `${seconds.toFixed(2)} s` : "–"),
      );
    }),
  );
  const heads = [["Version"], ["Answers as"], ["State"], ["Engine"], ["Loaded in", "number"]];
  return h(
    "div",
    { class: "scroll card", tabindex: "0", role: "region", "aria-label": "Versions" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
      h("tbody", {}, rows),
    ),
  );
}

async function describe(details, model, { version, state, error }, signal, urls) {
  details.append(h("h2", {}, `${model}, version ${version}`));
  if (state !== "AVAILABLE") {
    details.append(h("p", {}, `It is ${state}. ${error}`));
    return;
  }
  const about = await getJson(aboutPath(model, version), { signal });
  const names = about.files.map(({ name }) => name);
  const pictureUrl = async (name) => {
    if (!names.includes(name)) throw new Error(`${name} does not lie beside the version.`);
    const url = URL.createObjectURL(await (await ask(filePath(model, version, name), { signal })).blob());
    urls.push(url);
    return url;
  };
  details.append(facts(about));
  const figures = names.filter((name) => FIGURES.test(name) && !name.includes("/") && !name.startsWith("sample"));
  details.append(h("div", { class: "figures" }, figures.map((name) => figure(name, pictureUrl(name)))));
  if (names.includes("README.md")) {
    const text = await (await ask(filePath(model, version, "README.md"), { signal })).text();
    const card = await rendered(text, pictureUrl);
    details.append(h("details", { class: "card", open: true }, h("summary", {}, "Model card"), card));
  }
  details.append(
    h("p", {}, h("a", { class: "button main", href: `#/try/${encodeURIComponent(model)}` }, `Try ${model}`)),
  );
  details.querySelector("h2").scrollIntoView({ block: "nearest" });
}

function facts(about) {
  const { metrics, twin, signatures, labels } = about;
  const tensor = ([name, { datatype, shape }]) =>
    `${name}: ${datatype} ${shape === null ? "of any shape" : `[${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`}`;
  const default_ = signatures.serving_default;
  const entries = [
    ["Accuracy", metrics?.accuracy !== undefined && `${percent(metrics.accuracy)} of the test split`],
    ["Parameters", metrics?.parameters !== undefined && metrics.parameters.toLocaleString("en")],
    ["Size on disk", bytes(about.bytes)],
    ["Runs by", about.engine + (about.row_seconds === null ? "" : `, ${microseconds(about.row_seconds)} a row`)],
    ["Twin", twin && `${twin.precision ?? "float32"}, proved on ${twin.inputs_tried.toLocaleString("en")} inputs`],
    ["Labels", labels.length > 0 && labels.join(", ")],
    ["Takes", default_ && Object.entries(default_.inputs).map(tensor).join("; ")],
    ["Gives", default_ && Object.entries(default_.outputs).map(tensor).join("; ")],
  ].filter(([, value]) => value);
  return h("dl", { class: "facts card" }, entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function microseconds(seconds) {
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : [seconds * 1e3, "ms"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

function figure(name, url) {
  const title = name.replace(FIGURES, "").replaceAll("_", " ");
  const image = h("img", { alt: `${title}, described in the model card` });
  url.then((found) => (image.src = found), () => image.remove());
  return h("figure", { class: "card" }, image, h("figcaption", {}, title));
}
