// The lines that do in a terminal or in Python what a panel does.

import { hasKey } from "./api.js";
import { h } from "./elements.js";

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const curlKey = () => (hasKey() ? ` -H "Authorization: Bearer $API_KEY"` : "");
const pythonKey = () => (hasKey() ? `, "Authorization": f"Bearer {os.environ['API_KEY']}"` : "");
const pythonImports = () => (hasKey() ? "import os\n\nimport requests" : "import requests");

/** For a picture that lies in a file. */
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

/** Both, to copy. `snippets`: text by what it is. */
export function snippetBox(snippets) {
  return h(
    "details",
    { class: "snippets" },
    h("summary", {}, "Do the same from a terminal or in Python"),
    Object.entries(snippets).map(([what, text]) => {
      const button = h("button", { type: "button", class: "quiet", "aria-label": `Copy the ${what} lines` }, "Copy");
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          // Without https the browser may refuse: then they are marked, ready for Ctrl+C.
          getSelection().selectAllChildren(code);
          button.textContent = "Marked";
        }
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
      const code = h("code", {}, text);
      return h("figure", { class: "snippet" }, h("figcaption", {}, what, button), h("pre", { tabindex: "0" }, code));
    }),
  );
}
