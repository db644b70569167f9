// Any other model: a form made from its signature, filled with a request that works.

import { aboutPath, modelPath, postJson } from "../api.js";
import { errorPlace, h, newId } from "../elements.js";
import { jsonSnippets, snippetBox } from "../snippets.js";

// A larger tensor is no help as text.
const MOST_VALUES = 4096;

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
        h("pre", { tabindex: "0" }, JSON.stringify(found, null, 1)),
        snippetBox(jsonSnippets(path, body)),
      );
    } catch (wrong) {
      // A sentence that names an input belongs to its field.
      const named = fields.filter(({ name }) => wrong.message.includes(`'${name}'`) || wrong.message.includes(`"${name}"`));
      (named.length === 1 ? named[0].error : fields.length === 1 ? fields[0].error : problem).show(wrong);
    }
  }

  return h(
    "form",
    { class: "card", onsubmit: submit, novalidate: true },
    h("p", { class: "lead" }, `Gives ${Object.entries(outputs).map(([name, tensor]) => `${name} (${told(tensor)})`).join(", ")}.`),
    fields.map(({ element }) => element),
    h("p", { class: "row" }, h("button", { class: "main" }, "Ask")),
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
    element: h("div", {}, h("p", {}, h("label", { for: id }, name), h("span", { class: "note" }, ` ${told(tensor)}, as JSON`)), text, error.element),
    read() {
      try {
        return JSON.parse(text.value);
      } catch (wrong) {
        throw new Error(`${name} is no JSON: ${wrong.message}`);
      }
    },
  };
}

const told = ({ datatype, shape }) =>
  `${datatype} ${shape === null ? "of any shape" : `[${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`}`;

/** Values by input: the version's own example where it has one for this signature, else zeros of the right shape. */
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
  return Object.fromEntries(names.map((name) => [name, zeros(inputs[name])]));
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function zeros({ datatype, shape }) {
  const sizes = (shape ?? [-1]).map((size) => (size < 0 ? 1 : size));
  if (sizes.reduce((product, size) => product * size, 1) > MOST_VALUES) return undefined;
  const zero = datatype === "BYTES" ? "" : datatype === "BOOL" ? false : 0;
  return sizes.reduceRight((inner, size) => Array.from({ length: size }, () => inner), zero);
}
