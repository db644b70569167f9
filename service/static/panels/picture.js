// A model that takes pictures: drop, paste, choose, photograph or draw one, or take a sample.

import { aboutPath, ask, filePath, modelPath, postPicture } from "../api.js";
import { bars, errorPlace, h, newId, percent, trying } from "../elements.js";
import { pictureSnippets, snippetBox } from "../snippets.js";
import { camera } from "./camera.js";
import { drawingBoard } from "./drawing.js";
import { occlusion } from "./occlusion.js";

export const fits = (about) => about.image !== null;

/** `about`: of each version that is AVAILABLE; `first`: which of them answers at first. */
export function panel(model, about, first) {
  const shown = new Set([first]);
  let chosen = null;
  let turn = new AbortController();

  const problem = errorPlace();
  const answers = h("div", { class: "answers", "aria-live": "polite" });
  const given = h("figure", { class: "given", hidden: true });
  const inputs = sources(about[first], problem, take);

  function take(picture, name, expected) {
    if (chosen) URL.revokeObjectURL(chosen.url);
    chosen = { picture, name, expected, url: URL.createObjectURL(picture) };
    given.hidden = false;
    given.replaceChildren(
      h("img", { src: chosen.url, alt: `The picture: ${name}` }),
      h("figcaption", {}, name, expected && h("span", { class: "note" }, ` – it is: ${expected}`)),
    );
    return answer();
  }

  async function answer() {
    if (!chosen) return;
    turn.abort();
    turn = new AbortController();
    const { signal } = turn;
    const places = [...shown].sort((a, b) => a - b).map((place) => about[place]);
    await trying(problem, async () => {
      const results = await Promise.all(places.map((version) => resultOf(version, chosen, signal)));
      answers.replaceChildren(...results);
      // On a phone the answer is below all that can be given.
      if (matchMedia("(max-width: 800px)").matches) given.scrollIntoView({ block: "start" });
    });
  }

  async function resultOf(version, { picture, name, expected }, signal) {
    const path = modelPath(version.name, version.version);
    const verb = version.labels.length ? "classify" : "predict";
    const tried = aboutPath(version.name, version.version);
    const [response, seen] = await Promise.all([
      postPicture(`${tried}/${verb}`, picture, { signal }),
      postPicture(`${tried}/seen`, picture, { signal }),
    ]);
    const body = await response.json();
    const look = h("img", { class: "pixels", src: await dataUrl(await seen.blob()), alt: "What the model saw" });
    const { height, width, mode } = version.image;
    const saw = h(
      "figure",
      { class: "saw" },
      h("div", { class: "stack" }, look),
      h("figcaption", {}, `What the model saw: ${width}×${height}, ${mode === "L" ? "grey" : "colour"}`),
    );
    const title = about.length > 1 && h("h2", {}, `Version ${version.version}`, accuracyOf(version));
    if (verb === "predict") {
      return h("article", { class: "answer" }, title, saw, h("pre", { tabindex: "0" }, JSON.stringify(body, null, 1)));
    }
    const [ranking] = body.results;
    return h(
      "article",
      { class: "answer" },
      title,
      verdict(ranking, expected, response.headers.get("Outlier-Score")),
      h("div", { class: "pair" }, saw, bars(ranking)),
      occlusion(version, picture, saw, ranking),
      snippetBox(pictureSnippets(`${path}:${verb}`, name, picture.type || "image/png")),
    );
  }

  const choices =
    about.length > 1 &&
    h(
      "fieldset",
      { class: "versions" },
      h("legend", {}, "Versions, one or side by side"),
      about.map((version, place) => {
        const id = newId("version");
        return h(
          "span",
          { class: "choice" },
          h("input", {
            type: "checkbox",
            id,
            checked: shown.has(place),
            onchange: (event) => {
              if (event.target.checked) shown.add(place);
              else if (shown.size > 1) shown.delete(place);
              else event.target.checked = true;
              answer();
            },
          }),
          h("label", { for: id }, `Version ${version.version}`, accuracyOf(version)),
        );
      }),
    );

  const element = h(
    "div",
    { class: "picture-panel" },
    h("h1", {}, model.name),
    h("p", { class: "lead" }, whatItKnows(about[first])),
    choices,
    h("div", { class: "columns" }, h("div", { class: "inputs" }, inputs.element, problem.element, given), answers),
  );
  return {
    element,
    leave() {
      turn.abort();
      inputs.leave();
      if (chosen) URL.revokeObjectURL(chosen.url);
    },
  };
}

function whatItKnows({ labels }) {
  return labels.length ? `Tells apart: ${labels.join(", ")}.` : "Takes pictures.";
}

function accuracyOf({ metrics }) {
  return metrics?.accuracy === undefined
    ? null
    : h("span", { class: "note" }, ` ${percent(metrics.accuracy)} right on its test split`);
}

function verdict([[label, score]], expected, outlierScore) {
  const sure = score >= 0.9 ? "Sure" : score >= 0.6 ? "Fairly sure" : "Not sure";
  const right = expected === undefined ? "" : expected === label ? " Right." : ` Wrong: it is ${expected}.`;
  const parts = [h("p", { class: "verdict" }, h("strong", {}, label), ` ${sure}: ${percent(score)}.${right}`)];
  if (outlierScore !== null) {
    const strange = !(Number(outlierScore) <= 1);
    parts.push(
      h(
        "p",
        { class: strange ? "strange" : "known" },
        strange
          ? `Looks like nothing it was trained on (outlier score ${outlierScore}, above 1): do not rely on the label.`
          : `Looks like what it was trained on (outlier score ${outlierScore}, up to 1).`,
      ),
    );
  }
  return parts;
}

/** Every way to give a picture; `take(picture, name, expected)` gets it. */
function sources(about, problem, take) {
  const pickerId = newId("picker");
  const picker = h("input", {
    type: "file",
    id: pickerId,
    accept: "image/png,image/jpeg,image/webp,image/avif,image/gif,image/bmp,image/tiff",
    class: "visually-hidden",
    onchange: () => picker.files.length && take(picker.files[0], picker.files[0].name),
  });
  const drop = h(
    "div",
    { class: "drop" },
    h("p", {}, "Drop a picture here, paste one, or"),
    picker,
    h("label", { for: pickerId, class: "button main" }, "choose a file"),
  );
  const paste = (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) take(file, file.name || "pasted.png");
  };
  const dropped = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
    else problem.show("That was no file: drop a picture from your computer.");
  };
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", dropped);
  document.addEventListener("paste", paste);

  const photographing = camera(problem, take);
  const drawing = drawingBoard(about.image, take);
  const element = h("div", { class: "sources" }, drop, photographing.element, drawing, samples(about, problem, take));
  return {
    element,
    leave() {
      document.removeEventListener("paste", paste);
      photographing.leave();
    },
  };
}

function samples(about, problem, take) {
  const pictures = about.samples.filter(({ file }) => /\.(png|jpe?g)$/.test(file ?? ""));
  if (!pictures.length) return null;
  return h(
    "section",
    { class: "samples" },
    h("h2", {}, "Or a sample"),
    h("p", { class: "note" }, "From the test split: the model was not fitted to these."),
    h(
      "ul",
      { class: "strip" },
      pictures.map(({ file, expected }, number) => {
        const image = h("img", { alt: "", width: "56", height: "56" });
        const path = filePath(about.name, about.version, file);
        const fetched = ask(path).then((answer) => answer.blob());
        fetched.then(dataUrl).then((url) => (image.src = url), problem.show);
        const name = file.split("/").pop();
        const label = `Sample ${number + 1}${expected === undefined ? "" : `: ${expected}`}`;
        const use = () => trying(problem, async () => take(await fetched, name, expected));
        return h("li", {}, h("button", { type: "button", "aria-label": label, title: label, onclick: use }, image));
      }),
    ),
  );
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
