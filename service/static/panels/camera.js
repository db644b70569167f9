// A picture from the camera, if there is one and the browser allows it.

import { h, trying } from "../elements.js";

const START = "Use the camera";

/** `take(picture, name)` gets the picture. Browsers allow the camera only on https and localhost. */
export function camera(problem, take) {
  const element = h("div", { class: "camera" });
  if (!navigator.mediaDevices?.getUserMedia) return { element, leave() {} };
  let stream = null;

  const video = h("video", { hidden: true, muted: true, playsInline: true, "aria-label": "What the camera sees" });
  const button = h("button", { type: "button" }, START);
  const stop = h("button", { type: "button", hidden: true }, "Stop the camera");

  function leave() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.hidden = stop.hidden = true;
    button.textContent = START;
  }

  async function start() {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      throw new Error(`The camera cannot be used (${error.message}). Choose a file instead.`);
    }
    video.srcObject = stream;
    video.hidden = stop.hidden = false;
    await video.play();
    button.textContent = "Take the picture";
  }

  function shoot() {
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((picture) => picture && take(picture, "photo.jpg"), "image/jpeg", 0.9);
    leave();
  }

  button.addEventListener("click", () => (stream ? shoot() : trying(problem, start)));
  stop.addEventListener("click", leave);
  element.append(video, button, stop);
  return { element, leave };
}
