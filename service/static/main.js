// Shows the view that the address names after the #.

import { h } from "./elements.js";

const VIEWS = {
  try: () => import("./views/try.js"),
  models: () => import("./views/models.js"),
  live: () => import("./views/live.js"),
};

const main = document.getElementById("main");
let leave = () => {};
let turn = 0;

async function show() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const view = name in VIEWS ? name : "try";
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.getAttribute("href") === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave();
  leave = () => {};
  turn += 1;
  const mine = turn;
  const place = h("div", { class: `view ${view}` });
  main.replaceChildren(place);
  scrollTo(0, 0);
  try {
    const module = await VIEWS[view]();
    const cleanup = await module.show(place, rest);
    if (mine === turn) leave = cleanup ?? leave;
    else cleanup?.();
  } catch (error) {
    if (mine === turn) {
      place.replaceChildren(
        h("h1", {}, "This page cannot be shown"),
        h("p", { class: "error", role: "alert" }, error.message),
        h("p", {}, h("button", { type: "button", onclick: show }, "Try again")),
      );
    }
  }
}

const theme = document.getElementById("theme");

function paint(chosen) {
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (chosen) document.documentElement.dataset.theme = chosen;
  theme.textContent = dark ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${dark ? "light" : "dark"} mode`);
  return dark;
}

theme.addEventListener("click", () => {
  const next = paint(localStorage.getItem("theme")) ? "light" : "dark";
  localStorage.setItem("theme", next);
  paint(next);
});
paint(localStorage.getItem("theme"));

addEventListener("hashchange", show);
show();
