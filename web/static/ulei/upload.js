// Uploads of images and ISOs: chunk by chunk through the API; one goes on after a cut, a reload or the panel's restart.

import { notice } from "./app.js";

const CHUNK_BYTES = 8 << 20;
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 15000;

const form = document.querySelector("form[data-upload]");
let under = null; // the AbortController of what is being sent

const say = (word, facts) => form.dataset[word].replace(/\{(\w+)\}/g, (_, name) => facts[name]);
const api = async (method, path, body, type) => {
  const headers = { "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value };
  if (type) headers["Content-Type"] = type;
  const answer = await fetch(path, { method, headers, body, signal: under?.signal });
  if (answer.status >= 500 && answer.status !== 507) throw new TypeError(String(answer.status));
  // A proxy in between may refuse in its own words.
  const said = await answer.json().catch(() => ({}));
  return { status: answer.status, ok: answer.ok, said };
};
const reasons = (said) =>
  [said.detail, said.hint].filter(Boolean).join(". ") || document.getElementById("failed").dataset.server;
const refreshList = () =>
  document.dispatchEvent(new CustomEvent("ulei:refresh", { detail: { about: form.dataset.about } }));

class Refusal extends Error {}

function show(word, facts) {
  form.querySelector(".upload-now").hidden = false;
  form.querySelector("#upload-words").textContent = say(word, facts);
  form.querySelector("progress").value = facts.percent ?? 100;
}

// The upload of this name, begun earlier or now.
async function begin(file, checksum, os) {
  const kind = form.dataset.about.slice(0, -1);
  const known = await api("GET", `/api/v1/uploads/?kind=${kind}&name=${encodeURIComponent(file.name)}`);
  const earlier = known.ok && !file.name.includes(",") ? known.said.results[0] : undefined;
  if (earlier && earlier.size_bytes !== file.size) throw new Refusal(say("other", { name: file.name }));
  if (earlier) return earlier;
  const body = JSON.stringify({ name: file.name, size_bytes: file.size, checksum, os });
  const begun = await api("POST", form.dataset.upload, body, "application/json");
  if (!begun.ok) throw new Refusal(reasons(begun.said));
  return begun.said;
}

async function send(file, checksum, os) {
  const upload = await begin(file, checksum, os);
  refreshList();
  const path = `/api/v1/uploads/${upload.id}/`;
  let offset = upload.received_bytes;
  let retry = FIRST_RETRY_MS;
  for (;;) {
    const chunk = file.slice(offset, offset + CHUNK_BYTES);
    const last = offset + chunk.size === file.size;
    show(last ? "checking" : "sending", { name: file.name, percent: Math.floor((offset * 100) / file.size) });
    let answer;
    try {
      answer = await api("PUT", `${path}?offset=${offset}`, chunk, "application/octet-stream");
      if (answer.said.code === "upload_wrong_offset" || answer.said.code === "upload_busy") {
        // A chunk whose answer was lost has come all the same.
        const now = await api("GET", path);
        if (now.ok) offset = now.said.received_bytes;
        if (answer.said.code === "upload_busy") await pause(FIRST_RETRY_MS);
        continue;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      show("waiting", { name: file.name, percent: Math.floor((offset * 100) / file.size) });
      await pause(retry);
      retry = Math.min(retry * 2, LONGEST_RETRY_MS);
      continue;
    }
    // The last chunk was taken, and its answer was lost: the upload has become an image.
    if (answer.status === 404 && last && (await api("GET", form.dataset.upload + upload.id + "/")).ok) return;
    if (!answer.ok) throw new Refusal(reasons(answer.said));
    retry = FIRST_RETRY_MS;
    offset = answer.said.received_bytes;
    if (answer.status === 201) return;
  }
}

function pause(ms) {
  const { signal } = under;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    }, { once: true });
  });
}

function busy(is) {
  form.querySelector("button.btn-primary").disabled = is;
  form.querySelector("[data-upload-stop]").hidden = !is;
  for (const field of form.querySelectorAll("input, select")) field.disabled = is && field.type !== "hidden";
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  if (!file || under) return;
  const error = form.querySelector("[data-upload-error]");
  const checksum = form.elements.checksum.value.trim();
  const os = form.elements.os.value;
  error.textContent = "";
  under = new AbortController();
  busy(true);
  try {
    await send(file, checksum, os);
    notice(say("done", { name: file.name }));
    form.querySelector(".upload-now").hidden = true;
    form.reset();
  } catch (problem) {
    form.querySelector(".upload-now").hidden = true;
    if (problem.name === "AbortError") error.textContent = say("stopped", { name: file.name });
    else if (problem instanceof Refusal) error.textContent = problem.message;
    else error.textContent = document.getElementById("failed").dataset.network;
  } finally {
    under = null;
    busy(false);
    refreshList();
  }
});

form?.querySelector("[data-upload-stop]").addEventListener("click", () => under?.abort());

// What is on its way is lost to this page when it is left; the file can be chosen again.
addEventListener("beforeunload", (event) => {
  if (under) event.preventDefault();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-upload-drop]");
  if (!button) return;
  button.disabled = true;
  try {
    const answer = await api("DELETE", button.dataset.uploadDrop);
    if (!answer.ok) notice(reasons(answer.said), "error");
  } catch {
    notice(document.getElementById("failed").dataset.network, "error");
  }
  refreshList();
});
