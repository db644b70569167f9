// Which parts of a picture mattered, as a map over what the model saw.

import { aboutPath, postPicture } from "../api.js";
import { errorPlace, h, scoreText, trying } from "../elements.js";

const MIN_FULL_STRENGTH = 0.05;

/** A button that lays the map over the picture in the figure `saw`. */
export function occlusion(version, picture, saw, ranking) {
  const [[label]] = ranking;
  const problem = errorPlace();
  const said = h("p", { class: "note", role: "status" });
  const button = h("button", { type: "button", "aria-pressed": "false" }, "Which parts mattered?");
  let map = null;

  async function fetchMap() {
    button.disabled = true;
    try {
      const path = `${aboutPath(version.name, version.version)}/occlusion?label=${encodeURIComponent(label)}`;
      const found = await (await postPicture(path, picture)).json();
      map = drawn(found.drops);
      saw.querySelector(".stack").append(map);
      said.textContent = told(found, scoreText(ranking));
    } finally {
      button.disabled = false;
    }
  }

  button.addEventListener("click", () =>
    trying(problem, async () => {
      if (!map) await fetchMap();
      else map.hidden = said.hidden = !map.hidden;
      button.setAttribute("aria-pressed", String(!map.hidden));
    }),
  );
  return h("div", { class: "occlusion" }, button, said, problem.element);
}

function told({ label, score, drops }, text) {
  const most = Math.max(...drops.flat());
  if (most < 0.0005) return `Hiding any one part does not make the model less sure of ${label} (${text(score)}).`;
  return (
    `Red parts speak for ${label}: hiding the reddest lowers its score from ${text(score)} to ` +
    `${text(score - most)}. Blue parts speak against it.`
  );
}

/** One pixel per cell; the browser enlarges and smooths it. */
function drawn(drops) {
  const canvas = h("canvas", { class: "map", width: drops[0].length, height: drops.length, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  // Tiny differences must not look like large ones.
  const largest = Math.max(MIN_FULL_STRENGTH, ...drops.flat().map(Math.abs));
  drops.flat().forEach((drop, place) => {
    const strength = Math.abs(drop) / largest;
    pixels.data.set(drop > 0 ? [230, 40, 20, 210 * strength] : [30, 90, 230, 210 * strength], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}
