// A model that takes pictures: drop, paste, choose, photograph or draw one, or pick a sample.

import { aboutPath, ask, filePath, modelPath, postPicture } from "../api.js";
import { accuracyText, bars, errorPlace, h, json, listed, newId, trying, verdict } from "../elements.js";
import { pictureSnippets, snippetBox } from "../snippets.js";
import { camera } from "./camera.js";
import { drawingBoard } from "./drawing.js";
import { occlusion } from "./occlusion.js";

export const fits = (about) => about.image !== null;

/** `about`: every version that is AVAILABLE. `first`: the index of the one that answers at first. */
export function panel(model, about, first) {
  const shown = new Set([first]);
  let chosen = null;
  let turn = new AbortController();

  const problem = errorPlace();
  const none = h("p", { class: "note" }, "Choose a picture. The answer appears here.");
  const answers = h("div", { class: "answers", "aria-live": "polite" }, none);
  const given = h("figure", { class: "given", hidden: true });
  const inputs = sources(about[first], problem, take);

  let taken = 0;

  /** `source`: a picture, or a promise of one. Of several the last one counts, whichever comes first. */
  async function take(source, name, expected) {
    const number = (taken += 1);
    const picture = await source;
    if (number !== taken) return undefined;
    if (chosen) URL.revokeObjectURL(chosen.url);
    chosen = { picture, name, expected, url: URL.createObjectURL(picture) };
    given.hidden = false;
    given.replaceChildren(
      h("img", { src: chosen.url, alt: `The picture: ${name}` }),
      h("figcaption", {}, name, expected && h("span", { class: "note" }, `, labelled ${expected}`)),
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
      // On a phone the answer is below the fold.
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
      h("figcaption", {}, `What the model saw: ${width} × ${height} pixels${mode === "L" ? ", grey" : ""}`),
    );
    const title = about.length > 1 && h("h2", {}, `Version ${version.version}`, accuracyOf(version));
    if (verb === "predict") {
      return h("article", { class: "answer" }, title, saw, json(body));
    }
    const [ranking] = body.results;
    return h(
      "article",
      { class: "answer" },
      title,
      h("p", { class: "verdict" }, verdict(ranking, expected)),
      outlier(response.headers.get("Outlier-Score"), version.outlier_doubt),
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
      h("legend", {}, "Compare versions"),
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
    h(
      "div",
      { class: "columns" },
      h("div", { class: "inputs" }, inputs.element, problem.element),
      h("div", {}, given, answers),
    ),
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
  return labels.length
    ? `Give it a picture, and it picks one of ${labels.length} labels: ${listed(labels)}.`
    : "Give it a picture, and see what it answers.";
}

function accuracyOf(version) {
  if (version.accuracy === null) return null;
  return h("span", { class: "note" }, ` ${accuracyText(version)} right on test pictures`);
}

/** Why a score below the limit says nothing. */
const DOUBTS = {
  "few examples": "Too few pictures to tell whether this looks like those it was trained on",
  "flags few": "Its outlier score does not tell whether this looks like the pictures it was trained on",
};

/** Whether the picture looks like the training data. `score`: of the response's header; null if it has none. */
function outlier(score, doubt) {
  if (score === null) return null;
  if (Number(score) <= 1) {
    if (doubt) return h("p", { class: "unsure" }, `${DOUBTS[doubt]} (outlier score ${score}, limit 1).`);
    return h("p", { class: "known" }, `This looks like the pictures it was trained on (outlier score ${score}, limit 1).`);
  }
  const sentence = `This looks like nothing it was trained on (outlier score ${score}, limit 1). Do not rely on the label.`;
  return h("p", { class: "strange" }, sentence);
}

/** All sources of pictures. `take(picture, name, expected)` gets the chosen one. */
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
    else problem.show("That was not a file. Drop a picture from your computer.");
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
  const origin =
    about.samples_from === "test"
      ? "From the test split: the model was not fitted to these."
      : "These pictures came with the model.";
  return h(
    "section",
    { class: "samples" },
    h("h2", {}, "Or pick a sample"),
    h("p", { class: "note" }, origin),
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
        const use = () => trying(problem, () => take(fetched, name, expected));
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
