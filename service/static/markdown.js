// Model cards as HTML. They come with the models, so from strangers: anything that could run is removed.

import { h } from "./elements.js";

let loading = null;

function load() {
  loading ??= Promise.all([
    import("/static/vendor/marked-18.2.1/marked.esm.js"),
    new Promise((resolve, reject) => {
      const onerror = () => reject(new Error("The model card cannot be shown: the code that makes it safe did not load."));
      document.head.append(
        h("script", { src: "/static/vendor/dompurify-3.4.18/purify.min.js", onload: resolve, onerror }),
      );
    }),
  ]);
  return loading;
}

/** The Markdown text as an element. Pictures that lie beside the card come from `pictureUrl(name)`, a promise. */
export async function rendered(text, pictureUrl) {
  const [{ marked }] = await load();
  const fragment = window.DOMPurify.sanitize(marked.parse(text), {
    RETURN_DOM_FRAGMENT: true,
    FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select"],
    FORBID_ATTR: ["style", "id", "name", "class"],
  });
  for (const image of fragment.querySelectorAll("img")) {
    const source = image.getAttribute("src") ?? "";
    image.removeAttribute("src");
    image.loading = "lazy";
    if (/^[\w./-]+$/.test(source)) pictureUrl(source).then((url) => (image.src = url), () => image.remove());
    else image.remove();
  }
  for (const link of fragment.querySelectorAll("a")) link.rel = "noopener noreferrer";
  fragment.querySelectorAll("table").forEach((table, place) => {
    const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table ${place + 1}` });
    table.replaceWith(scroll);
    scroll.append(table);
    // Markdown makes a heading of the empty corner cell, too.
    for (const head of table.querySelectorAll("th:empty")) head.replaceWith(h("td", {}));
  });
  // The page has its own h1.
  for (const heading of [...fragment.querySelectorAll("h1, h2, h3, h4")]) {
    const deeper = h(`h${Math.min(6, Number(heading.tagName[1]) + 1)}`, {});
    deeper.append(...heading.childNodes);
    heading.replaceWith(deeper);
  }
  return h("div", { class: "markdown" }, fragment);
}
