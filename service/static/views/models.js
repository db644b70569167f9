// Models: every version with its state and quality, and a page for each with what its own files say.

import { aboutPath, ask, filePath, getJson } from "../api.js";
import { accuracyText, bytes, errorPlace, h, tensorText, trying } from "../elements.js";
import { rendered } from "../markdown.js";

const FIGURES = /\.(png|jpe?g)$/;

export async function show(place, [name, number]) {
  const { models } = await getJson("/playground/models");
  const abort = new AbortController();
  const urls = [];
  const pictureUrl = async (model, version, file) => {
    const picture = await (await ask(filePath(model, version, file), { signal: abort.signal })).blob();
    urls.push(URL.createObjectURL(picture));
    return urls.at(-1);
  };
  if (number) await showVersion(place, models, name, number, abort.signal, pictureUrl);
  else showAll(place, models, pictureUrl);
  return () => {
    abort.abort();
    urls.forEach(URL.revokeObjectURL);
  };
}

function showAll(place, models, pictureUrl) {
  const whenSeen = lazily();
  const heads = ["Version", "Label", "State", "Accuracy", "Size", "Engine", "Load time"];
  const rows = models.flatMap((model) =>
    model.versions.map((version) => {
      const { state, error, engine } = version;
      const href = `#/models/${encodeURIComponent(model.name)}/${version.version}`;
      const picture = h("span", { class: "thumbnail", "aria-hidden": "true" }, model.name[0]);
      // A version that is not loaded hands out no files.
      if (version.thumbnail && state === "AVAILABLE") {
        whenSeen(picture, async () => {
          const url = await pictureUrl(model.name, version.version, version.thumbnail);
          picture.replaceChildren(h("img", { src: url, alt: "" }));
        });
      }
      const cells = [
        labelsOf(model, version) || "–",
        [h("span", { class: `state ${state.toLowerCase()}` }, state), error && h("p", { class: "note" }, error)],
        quality(version) ?? "–",
        version.bytes === null ? "–" : bytes(version.bytes),
        engine || "–",
        state === "AVAILABLE" ? loadTime(version) : "–",
      ];
      return h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          h("div", { class: "version-name" }, picture, h("a", { href }, `${model.name} ${version.version}`)),
        ),
        cells.map((cell, at) => h("td", { dataset: { head: heads[at + 1] } }, cell)),
      );
    }),
  );
  place.append(
    h("h1", {}, "Models"),
    rows.length
      ? h(
          "div",
          { class: "scroll card", tabindex: "0", role: "region", "aria-label": "Versions" },
          h(
            "table",
            { class: "version-table" },
            h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
            h("tbody", {}, rows),
          ),
        )
      : h("p", {}, "There are no models yet."),
  );
}

/** `whenSeen(element, work)` starts the work once the element comes into sight: of a hundred pictures few are seen. */
function lazily() {
  const work = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      work.get(target)().catch(() => {}); // the initial stays
    }
  });
  return (element, start) => {
    work.set(element, start);
    observer.observe(element);
  };
}

const loadTime = ({ load_seconds: seconds }) => `${seconds.toFixed(2)} s`;

/** "default" and the labels that name the version. */
function labelsOf(model, { version }) {
  const named = Object.entries(model.labels).filter(([, number]) => number === version).map(([label]) => label);
  return [version === model.default && "default", ...named].filter(Boolean).join(", ");
}

/** The accuracy; of a model that has none, such as a regression, the loss. */
function quality(version) {
  const { accuracy, loss } = version;
  if (accuracy !== null) return accuracyText(version);
  return loss === null ? null : `loss ${short(loss)}`;
}

const short = (value) => String(Number(value.toPrecision(2)));

async function showVersion(place, models, name, number, signal, pictureUrl) {
  const problem = errorPlace();
  place.append(
    h("p", {}, h("a", { href: "#/models" }, "All models")),
    h("h1", {}, `${name}, version ${number}`),
    problem.element,
  );
  const model = models.find((each) => each.name === name);
  const version = model?.versions.find((each) => String(each.version) === number);
  if (!version) {
    problem.show(model ? `${name} has no version ${number}.` : `There is no model named ${name}.`);
    return;
  }
  if (version.state !== "AVAILABLE") {
    place.append(h("p", {}, `This version is not served (${version.state}). ${version.error}`));
    return;
  }
  place.append(h("p", {}, h("a", { class: "button main", href: `#/try/${encodeURIComponent(name)}` }, `Try ${name}`)));
  await trying(problem, async () => {
    const about = await getJson(aboutPath(name, number), { signal });
    const files = about.files.map((file) => file.name);
    const urlOf = async (file) => {
      if (!files.includes(file)) throw new Error(`There is no file ${file}.`);
      return pictureUrl(name, number, file);
    };
    const figures = files.filter((file) => FIGURES.test(file) && !file.includes("/") && !file.startsWith("sample"));
    place.append(
      facts(about, model, version),
      h("div", { class: "figures" }, figures.map((file) => figure(file, urlOf(file)))),
    );
    if (!files.includes("README.md")) return;
    const text = await (await ask(filePath(name, number, "README.md"), { signal })).text();
    const card = await rendered(text, urlOf);
    place.append(h("details", { class: "card", open: true }, h("summary", {}, "Model card"), card));
  });
}

function facts(about, model, version) {
  const { metrics, twin, signatures, labels, row_seconds: seconds } = about;
  const tensor = ([name, spec]) => `${name}: ${tensorText(spec)}`;
  const default_ = signatures.serving_default;
  const entries = [
    ["Accuracy", version.accuracy !== null && `${accuracyText(version)} on test data`],
    ["Loss", version.accuracy === null && version.loss !== null && short(version.loss)],
    ["Parameters", Number.isFinite(metrics?.parameters) && metrics.parameters.toLocaleString("en")],
    ["Size on disk", bytes(about.bytes)],
    ["Version label", labelsOf(model, version)],
    ["Engine", about.engine + (seconds === null ? "" : `, ${microseconds(seconds)} per row`)],
    ["Load time", loadTime(version)],
    ["LiteRT twin", twin && `${twin.precision ?? "float32"}, checked on ${twin.inputs_tried.toLocaleString("en")} inputs`],
    ["Labels", labels.length > 0 && labels.join(", ")],
    ["Inputs", default_ && Object.entries(default_.inputs).map(tensor).join("; ")],
    ["Outputs", default_ && Object.entries(default_.outputs).map(tensor).join("; ")],
  ].filter(([, value]) => value);
  return h("dl", { class: "facts card" }, entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function microseconds(seconds) {
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : [seconds * 1e3, "ms"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

function figure(file, url) {
  const title = file.replace(FIGURES, "").replaceAll("_", " ");
  const image = h("img", { alt: `Figure: ${title}` });
  url.then((found) => (image.src = found), () => image.remove());
  return h("figure", { class: "card" }, image, h("figcaption", {}, title));
}
