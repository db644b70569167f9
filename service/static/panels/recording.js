// A model that takes recordings: pick one or open a CSV, see its channels, and move a window along it.

import { aboutPath, ask, filePath, modelPath, postJson } from "../api.js";
import { colour, lineChart } from "../charts.js";
import { parseRecording } from "../csv.js";
import { bars, errorPlace, h, listed, newId, trying, verdict } from "../elements.js";
import { jsonSnippets, snippetBox } from "../snippets.js";

const MAX_CHANNELS = 32;
const MAX_WINDOWS = 81;
const FRAME_MILLISECONDS = 120;

export const fits = ({ signatures, labels }) => {
  const inputs = Object.values(signatures.serving_default?.inputs ?? {});
  const [tensor] = inputs;
  return (
    inputs.length === 1 &&
    labels.length > 0 &&
    tensor.datatype.startsWith("FP") &&
    tensor.shape?.length === 3 &&
    tensor.shape[1] > 1 &&
    tensor.shape[2] > 0 &&
    tensor.shape[2] <= MAX_CHANNELS
  );
};

/** A single score is the probability of the second of two labels. */
function scoresOf(row) {
  const scores = [row].flat();
  return scores.length === 1 ? [1 - scores[0], scores[0]] : scores;
}

export function panel(model, about, first) {
  const version = about[first];
  const path = `${modelPath(version.name, version.version)}:predict`;
  const tried = `${aboutPath(version.name, version.version)}/predict`;
  const [[, length, channels]] = Object.values(version.signatures.serving_default.inputs).map(({ shape }) => shape);
  const problem = errorPlace();
  const stage = h("div", { class: "recording" });
  let turn = new AbortController();
  let leaveRecording = () => {};

  /** `given`: a text, or a promise of one. Of several the last one counts, whichever comes first. */
  async function take(given, name, expected) {
    turn.abort();
    turn = new AbortController();
    const { signal } = turn;
    await trying(problem, async () => {
      const text = await given;
      if (signal.aborted) return;
      const { names, steps } = parseRecording(text, channels);
      if (steps.length < length) {
        throw new Error(`${name} has ${steps.length} steps; the model needs at least ${length}.`);
      }
      const answered = await answers(steps, signal);
      leaveRecording();
      leaveRecording = await shown({ name, names, steps, expected, ...answered });
    });
  }

  /** The label scores of a window at each of `starts`. */
  async function answers(steps, signal) {
    const last = steps.length - length;
    const stride = Math.max(1, Math.ceil(last / (MAX_WINDOWS - 1)));
    const starts = Array.from({ length: Math.floor(last / stride) + 1 }, (_, place) => place * stride);
    const instances = starts.map((start) => steps.slice(start, start + length));
    const { predictions } = await postJson(tried, { instances }, { signal });
    const scores = predictions.map((row) => scoresOf(row?.[version.label_output] ?? row));
    return { starts, scores };
  }

  async function shown({ name, names, steps, expected, starts, scores }) {
    let place = 0;
    let timer = null;
    const plot = h("div", { class: "plot", role: "img", "aria-label": `The channels of ${name}` });
    const id = newId("window");
    const slider = h("input", { id, type: "range", min: "0", max: String(starts.length - 1), value: "0" });
    const play = h("button", { type: "button" }, "Play");
    const said = h("p", { class: "verdict", role: "status" });
    const ranking = h("div", {});
    const snippets = h("div", {});
    const moves = starts.length > 1;

    const parts = [
      h("h2", {}, name, expected && h("span", { class: "note" }, `, labelled ${expected}`)),
      plot,
      moves && timeline(starts, scores, length, version.labels),
      moves && h("p", { class: "row slide" }, h("label", { for: id }, `Window of ${length} steps`), slider, play),
      h("div", { class: "pair wide" }, said, ranking),
      snippets,
    ];
    stage.replaceChildren(...parts.filter(Boolean));
    const chart = await lineChart(plot, {
      x: steps.map((_, step) => step),
      series: names.map((label, channel) => ({ label, values: steps.map((step) => step[channel]) })),
      height: 260,
      under(context, toPixels, box) {
        const from = toPixels(starts[place]);
        context.save();
        context.fillStyle = "rgba(128, 128, 128, .22)";
        context.fillRect(from, box.top, toPixels(starts[place] + length - 1) - from, box.height);
        context.restore();
      },
    });

    function move(to) {
      place = to;
      slider.value = String(to);
      const ranked = version.labels.map((label, at) => [label, scores[place][at]]).sort((a, b) => b[1] - a[1]);
      const [[label]] = ranked;
      const end = starts[place] + length - 1;
      slider.setAttribute("aria-valuetext", `steps ${starts[place]} to ${end}: ${label}`);
      said.replaceChildren(
        ...verdict(ranked, expected),
        h("br"),
        h("span", { class: "note" }, `steps ${starts[place]} to ${end}`),
      );
      ranking.replaceChildren(bars(ranked));
      chart.redraw();
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      said.setAttribute("role", "status");
    }

    slider.addEventListener("input", () => {
      stop();
      move(Number(slider.value));
    });
    play.addEventListener("click", () => {
      if (timer) {
        stop();
        return;
      }
      play.textContent = "Stop";
      // A screen reader should not read out every step while it plays.
      said.removeAttribute("role");
      if (place === starts.length - 1) place = -1;
      timer = setInterval(() => {
        move(place + 1);
        if (place === starts.length - 1) stop();
      }, FRAME_MILLISECONDS);
    });
    move(0);
    snippets.replaceChildren(snippetBox(jsonSnippets(path, { instances: [steps.slice(0, length)] })));
    return () => {
      stop();
      chart.leave();
    };
  }

  const pickerId = newId("recording");
  const picker = h("input", { type: "file", id: pickerId, accept: ".csv,.txt,.tsv,text/csv", class: "visually-hidden" });
  picker.addEventListener("change", () => {
    const [file] = picker.files;
    if (file) take(file.text(), file.name, null);
  });
  const samples = version.samples.filter(({ file }) => file?.endsWith(".csv"));

  /** Loads a sample. */
  const use = ({ file, expected }) => {
    const text = ask(filePath(version.name, version.version, file)).then((response) => response.text());
    return take(text, file.split("/").pop(), expected);
  };
  const nameOf = ({ file, expected }, number) =>
    expected === undefined ? file.split("/").pop().replace(".csv", "").replaceAll("-", " ") : `${expected} (${number + 1})`;

  const element = h(
    "div",
    { class: "recording-panel" },
    h("h1", {}, model.name),
    h(
      "p",
      { class: "lead" },
      `Give it a recording with ${channels} channels, and it picks one of ${version.labels.length} labels `,
      `for every ${length} steps: ${listed(version.labels)}.`,
    ),
    h(
      "div",
      { class: "card" },
      h(
        "p",
        { class: "row" },
        samples.map((sample, number) =>
          h("button", { type: "button", onclick: () => use(sample) }, nameOf(sample, number)),
        ),
        picker,
        h("label", { for: pickerId, class: "button main" }, "Open a CSV file"),
      ),
      h("p", { class: "note" }, `A CSV file needs one line per step and ${channels} columns; a header line is optional.`),
      problem.element,
    ),
    stage,
  );
  if (samples.length) use(samples.at(-1));
  return {
    element,
    leave() {
      turn.abort();
      leaveRecording();
    },
  };
}

/** The label of each window, as a band. */
function timeline(starts, scores, length, labels) {
  const winners = scores.map((row) => row.indexOf(Math.max(...row)));
  const band = h("div", { class: "band", "aria-hidden": "true" });
  const runs = [];
  winners.forEach((winner, place) => {
    if (runs.at(-1)?.winner === winner) runs.at(-1).to = place;
    else runs.push({ winner, from: place, to: place });
  });
  for (const { winner, from, to } of runs) {
    const part = h("span", { title: labels[winner] }, labels[winner]);
    part.style.flexGrow = String(to - from + 1);
    part.style.borderBlockEndColor = colour(winner);
    band.append(part);
  }
  const told = runs.map(({ winner, from, to }) => `${labels[winner]} from step ${starts[from]} to ${starts[to] + length - 1}`);
  return h("figure", { class: "timeline" }, band, h("figcaption", { class: "visually-hidden" }, told.join("; ")));
}
