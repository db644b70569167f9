// Any other model: a form made from its signature, filled with an example that works.

import { aboutPath, modelPath, postJson } from "../api.js";
import { errorPlace, h, json, newId, tensorText } from "../elements.js";
import { jsonSnippets, snippetBox } from "../snippets.js";

// A larger tensor is of no use as text.
const MAX_VALUES = 4096;

export const fits = () => true;

export function panel(model, about, first) {
  const version = about[first];
  const path = `${modelPath(version.name, version.version)}:predict`;
  const names = Object.keys(version.signatures);
  const chosen = names.includes("serving_default") ? "serving_default" : names[0];
  const place = h("div", {});
  const show = (name) => place.replaceChildren(form(version, path, name));
  const id = newId("signature");
  const select = h("select", { id }, names.map((name) => h("option", { value: name, selected: name === chosen }, name)));
  select.addEventListener("change", () => show(select.value));
  show(chosen);
  const element = h(
    "div",
    { class: "tensors-panel" },
    h("h1", {}, model.name),
    names.length > 1 && h("p", { class: "row" }, h("label", { for: id }, "Signature"), select),
    place,
  );
  return { element, leave() {} };
}

function form(version, path, signatureName) {
  const { inputs, outputs } = version.signatures[signatureName];
  const example = exampleOf(version, signatureName, inputs);
  const fields = Object.entries(inputs).map(([name, tensor]) => field(name, tensor, example[name]));
  const problem = errorPlace();
  const answer = h("div", { "aria-live": "polite" });

  async function submit(event) {
    event.preventDefault();
    const values = {};
    let isWhole = true;
    for (const { name, read, error } of fields) {
      error.clear();
      try {
        values[name] = read();
      } catch (wrong) {
        isWhole = false;
        error.show(wrong);
      }
    }
    if (!isWhole) return;
    const body = { ...(signatureName !== "serving_default" && { signature_name: signatureName }), inputs: values };
    problem.clear();
    try {
      const { outputs: found } = await postJson(`${aboutPath(version.name, version.version)}/predict`, body);
      answer.replaceChildren(
        h("h2", {}, "Answer"),
        json(found),
        snippetBox(jsonSnippets(path, body)),
      );
    } catch (wrong) {
      // A message that names one input belongs to its field.
      const named = fields.filter(({ name }) => wrong.message.includes(`'${name}'`) || wrong.message.includes(`"${name}"`));
      (named.length === 1 ? named[0].error : fields.length === 1 ? fields[0].error : problem).show(wrong);
    }
  }

  return h(
    "form",
    { class: "card", onsubmit: submit, novalidate: true },
    h(
      "p",
      { class: "lead" },
      fields.length > 0 && "Fill in the inputs as JSON. ",
      `The model returns ${Object.entries(outputs).map(([name, tensor]) => `${name} (${tensorText(tensor)})`).join(", ")}.`,
    ),
    fields.map(({ element }) => element),
    h("p", { class: "row" }, h("button", { class: "main" }, "Predict")),
    problem.element,
    answer,
  );
}

function field(name, tensor, example) {
  const id = newId("input");
  const error = errorPlace();
  const text = h("textarea", {
    id,
    rows: "5",
    spellcheck: "false",
    "aria-describedby": error.element.id,
  });
  text.value = example === undefined ? "" : JSON.stringify(example);
  return {
    name,
    error,
    element: h(
      "div",
      {},
      h("p", {}, h("label", { for: id }, name), h("span", { class: "note" }, ` ${tensorText(tensor)}`)),
      text,
      error.element,
    ),
    read() {
      try {
        return JSON.parse(text.value);
      } catch (wrong) {
        throw new Error(`${name} is not valid JSON: ${wrong.message}`);
      }
    },
  };
}

/** Values by input: the version's own example for this signature, or placeholders of the right shape. */
function exampleOf({ example }, signatureName, inputs) {
  const names = Object.keys(inputs);
  if (example && (example.signature_name ?? "serving_default") === signatureName) {
    if (example.inputs !== undefined) return names.length === 1 && !isObject(example.inputs) ? { [names[0]]: example.inputs } : example.inputs;
    if (Array.isArray(example.instances)) {
      const rows = example.instances;
      return rows.every(isObject)
        ? Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name])]))
        : { [names[0]]: rows };
    }
  }
  return Object.fromEntries(names.map((name) => [name, placeholder(inputs[name])]));
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function placeholder({ datatype, shape }) {
  const sizes = (shape ?? [-1]).map((size) => (size < 0 ? 1 : size));
  if (sizes.reduce((product, size) => product * size, 1) > MAX_VALUES) return undefined;
  const value = datatype === "BYTES" ? "text" : datatype === "BOOL" ? false : 0;
  return sizes.reduceRight((inner, size) => Array.from({ length: size }, () => inner), value);
}
