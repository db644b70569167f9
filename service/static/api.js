// Requests to the service. Error messages are the service's own.

const KEY = "fitting-room-api-key";
const MAX_RETRIES = 2;
const MAX_RETRY_SECONDS = 5;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** A path of the v1 API, for the code to copy. The page itself uses `aboutPath`, which does not count as traffic. */
export const modelPath = (model, version) => `/v1/models/${encodeURIComponent(model)}/versions/${version}`;
export const aboutPath = (model, version) => `/playground/models/${encodeURIComponent(model)}/versions/${version}`;
export const filePath = (model, version, file) =>
  `${aboutPath(model, version)}/files/${file.split("/").map(encodeURIComponent).join("/")}`;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/**
 * The response, or an ApiError. Where the service needs a key, one dialog asks for it, however many requests wait. Where
 * it is busy, it is asked again when it says so.
 */
export async function ask(path, { method = "GET", body, type, signal } = {}) {
  for (let retries = 0; ; ) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(type && { "Content-Type": type }), ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method, body, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The service does not respond. Is it still running?");
    }
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status === 429 && retries < MAX_RETRIES && seconds <= MAX_RETRY_SECONDS) {
      retries += 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const message = await sentence(response);
    if (response.status !== 401) throw new ApiError(response.status, message);
    if (!(await askForKey(key, message))) throw new ApiError(401, message);
  }
}

export const getJson = async (path, options) => (await ask(path, options)).json();

export const postJson = async (path, body, options) =>
  (await ask(path, { ...options, method: "POST", body: JSON.stringify(body), type: "application/json" })).json();

export const postPicture = (path, picture, options) =>
  ask(path, { ...options, method: "POST", body: picture, type: picture.type || "image/png" });

async function sentence(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error || text;
  } catch {
    return text || `${response.status} ${response.statusText}`;
  }
}

let asking = null;

/** Whether there is now another key to try. */
function askForKey(tried, why) {
  // Another request was given one meanwhile.
  if (sessionStorage.getItem(KEY) !== tried) return Promise.resolve(true);
  asking ??= openDialog(why).finally(() => {
    asking = null;
  });
  return asking;
}

function openDialog(why) {
  const dialog = document.getElementById("key");
  const input = document.getElementById("key-input");
  document.getElementById("key-why").textContent = hasKey() ? why : "";
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    document.getElementById("key-cancel").onclick = () => dialog.close("");
    dialog.querySelector("form").onsubmit = () => sessionStorage.setItem(KEY, input.value.trim());
    const before = sessionStorage.getItem(KEY);
    dialog.onclose = () => resolve(sessionStorage.getItem(KEY) !== before);
  });
}
