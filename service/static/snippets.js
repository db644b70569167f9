// Code to copy: a panel's request as a curl command and in Python.

import { hasKey } from "./api.js";
import { h } from "./elements.js";

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const curlKey = () => (hasKey() ? ` -H "Authorization: Bearer $API_KEY"` : "");
const pythonKey = () => (hasKey() ? `, "Authorization": f"Bearer {os.environ['API_KEY']}"` : "");
const pythonImports = () => (hasKey() ? "import os\n\nimport requests" : "import requests");

/** For a picture in a file. */
export function pictureSnippets(path, file, type) {
  const url = location.origin + path;
  return {
    curl: `curl -s -H 'Content-Type: ${type}'${curlKey()} --data-binary @${quote(file)} ${quote(url)}`,
    Python: `${pythonImports()}

with open(${JSON.stringify(file)}, "rb") as picture:
    answer = requests.post(
        ${JSON.stringify(url)},
        data=picture,
        headers={"Content-Type": ${JSON.stringify(type)}${pythonKey()}},
    )
answer.raise_for_status()
print(answer.json())`,
  };
}

/** For a JSON body. */
export function jsonSnippets(path, body) {
  const url = location.origin + path;
  const headers = hasKey() ? `, headers={${pythonKey().slice(2)}}` : "";
  return {
    curl: `curl -s${curlKey()} -d ${quote(JSON.stringify(body))} ${quote(url)}`,
    Python: `${pythonImports()}

answer = requests.post(${JSON.stringify(url)}, json=${pythonLiteral(body)}${headers})
answer.raise_for_status()
print(answer.json())`,
  };
}

function pythonLiteral(value) {
  return JSON.stringify(value).replaceAll(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b|[,:]/g, (found) => {
    const words = { true: "True", false: "False", null: "None", ",": ", ", ":": ": " };
    return words[found] ?? found;
  });
}

/** A box to unfold. `snippets`: code by its language. */
export function snippetBox(snippets) {
  return h(
    "details",
    { class: "snippets" },
    h("summary", {}, "Do the same from a terminal or in Python"),
    Object.entries(snippets).map(([what, text]) => {
      const button = h("button", { type: "button", class: "quiet", "aria-label": `Copy the ${what} code` }, "Copy");
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          // Without https the browser may refuse: select the code instead.
          getSelection().selectAllChildren(code);
          button.textContent = "Press Ctrl+C";
        }
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
      const code = h("code", {}, text);
      return h("figure", { class: "snippet" }, h("figcaption", {}, what, button), h("pre", { tabindex: "0" }, code));
    }),
  );
}
