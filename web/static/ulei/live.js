// Keeps the page true: one socket says that something changed, the part of the page that shows it is fetched again.
//
// A part is an element with
//   data-live      the topics that it listens to
//   data-src       where its HTML comes from
//   data-about     the things that it shows ("vm:<id>"); without it, or with a word alone ("images"), a whole list
//   data-versions  "vm:<id>=7 job:<id>=3": how new it is
// Frames hold no HTML. An answer older than what is known from frames is thrown away and asked for again.

const DEBOUNCE_MS = 60;
const PATIENCE_MS = 4000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15000;
const SILENCE_MS = 50000;
const STALE_TRIES = 5;
const MANY = 4;
const SIGNED_OUT = 4401;
const OTHER_RIGHTS = 4403;

const known = new Map(); // thing -> newest version that anything has told of
const states = new WeakMap(); // part -> { fetching, again, tries, failures }
const line = document.getElementById("connection");

let socket = null;
let epoch = null;
let subscribed = new Set();
let unanswered = new Set();
let retry = FIRST_RETRY_MS;
let lastHeard = 0;
let lostAt = null;
let lostTimer = 0;
let dirty = new Set();
let timer = 0;

const parts = () => [...document.querySelectorAll("[data-live]")];
const words = (text) => (text || "").split(" ").filter(Boolean);
const topicsOf = (part) => words(part.dataset.live);
const aboutOf = (part) => words(part.dataset.about);
const isList = (part) => !aboutOf(part).some((thing) => thing.includes(":"));
const nounOf = (topic) => ({ vm: "vms", job: "jobs", node: "nodes", pool: "pools" })[topic.split(":")[0]] || topic;
const kindOf = (topic) => ({ vms: "vm", jobs: "job", nodes: "node", pools: "pool" })[topic] || topic.split(":")[0];

function versionsIn(root) {
  const found = [];
  for (const element of [root, ...root.querySelectorAll("[data-versions]")]) {
    for (const word of words(element.dataset?.versions)) {
      const [thing, version] = word.split("=");
      found.push([thing, Number(version)]);
    }
  }
  return found;
}

function remember(thing, version) {
  if (!(version <= known.get(thing))) known.set(thing, version);
}

// --- frames

function heard(frame) {
  if (frame.hello) return greet(frame.epoch);
  if (frame.subscribed || frame.refused) return answered(frame.subscribed || frame.refused);
  if (!frame.topic) return undefined;
  const thing = `${kindOf(frame.topic)}:${frame.id}`;
  if (frame.type === "progress") showProgress(frame);
  if (!(frame.version >= (known.get(thing) ?? 0))) return undefined;
  const fresh = frame.version > (known.get(thing) ?? 0);
  remember(thing, frame.version);
  if (frame.type === "progress" || fresh || frame.type === "deleted" || frame.type === "gone") {
    touch(frame, [thing, frame.subject].filter(Boolean));
  }
  return undefined;
}

function showProgress(frame) {
  for (const box of document.querySelectorAll(`[data-job="${CSS.escape(frame.id)}"]`)) {
    const bar = box.querySelector("progress");
    const percent = box.querySelector(".job-percent");
    if (bar) bar.value = frame.progress;
    if (percent) percent.textContent = `${frame.progress} %`;
  }
}

function touch(frame, things) {
  const noun = nounOf(frame.topic);
  const listening = parts().filter((part) => topicsOf(part).some((topic) => nounOf(topic) === noun));
  const about = listening.filter((part) => aboutOf(part).some((thing) => things.includes(thing)));
  const lists = listening.filter(isList);
  const ended = frame.type === "deleted" || frame.type === "gone";
  if (frame.type === "progress") {
    // The bar is moved already; only a job's own page shows more of it.
    about.filter((part) => part.dataset.job === frame.id).forEach(mark);
    return;
  }
  if (about.length && !ended) about.forEach(mark);
  else lists.concat(about.filter((part) => !part.closest("table"))).forEach(mark);
}

function mark(part) {
  dirty.add(part);
  if (!timer) timer = setTimeout(flush, DEBOUNCE_MS);
}

function flush() {
  timer = 0;
  const now = new Set();
  const inList = new Map();
  for (const part of dirty) {
    if (!part.isConnected) continue;
    const list = part.parentElement?.closest("[data-live]");
    if (list) inList.set(list, [...(inList.get(list) || []), part]);
    else now.add(part);
  }
  dirty = new Set();
  for (const [list, rows] of inList) {
    if (now.has(list)) continue;
    if (rows.length > MANY) now.add(list);
    else rows.forEach((row) => now.add(row));
  }
  now.forEach(refresh);
}

// --- fetching

async function refresh(part) {
  const state = states.get(part) || { fetching: false, again: false, tries: 0, failures: 0 };
  states.set(part, state);
  if (state.fetching) {
    state.again = true;
    return;
  }
  state.fetching = true;
  state.again = false;
  try {
    await fetchPart(part, state);
    state.failures = 0;
  } catch {
    // The panel, or its database, does not answer. The socket may be well meanwhile, so nothing else would ask again.
    setTimeout(() => part.isConnected && mark(part), Math.min(FIRST_RETRY_MS * 2 ** state.failures, LONGEST_RETRY_MS));
    state.failures += 1;
  } finally {
    state.fetching = false;
  }
  if (state.again && part.isConnected) refresh(part);
}

async function fetchPart(part, state) {
  const answer = await fetch(part.dataset.src, {
    headers: { "HX-Request": "true" },
    signal: AbortSignal.timeout(PATIENCE_MS * 5),
  });
  if (answer.status === 401) return location.reload();
  if (answer.status === 404) return vanish(part);
  if (answer.status >= 500) throw new Error(`${part.dataset.src}: ${answer.status}`);
  if (!answer.ok) return undefined;
  const template = document.createElement("template");
  template.innerHTML = (await answer.text()).trim();
  const fresh = template.content.firstElementChild;
  if (!fresh || !part.isConnected) return undefined;
  if (versionsIn(fresh).some(([thing, version]) => version < known.get(thing)) && state.tries < STALE_TRIES) {
    state.tries += 1;
    state.again = true;
    return undefined;
  }
  state.tries = 0;
  versionsIn(fresh).forEach(([thing, version]) => remember(thing, version));
  window.Idiomorph.morph(part, fresh, {
    morphStyle: "outerHTML",
    // A field that has the focus keeps what is in it; a button that was just pressed may mean something else now.
    ignoreActiveValue: !document.activeElement?.matches("button"),
    callbacks: { beforeNodeMorphed: isUntouched },
  });
  const swapped = document.getElementById(fresh.id) || part;
  window.htmx.process(swapped);
  document.dispatchEvent(new CustomEvent("ulei:morphed"));
  subscribe();
  return undefined;
}

// What somebody has begun to type or choose stays as it is.
function isUntouched(element) {
  if (element.matches?.("input[type=radio], input[type=checkbox]")) return element.checked === element.defaultChecked;
  return !element.matches?.("input:not([type=hidden]), textarea") || element.value === element.defaultValue;
}

function vanish(part) {
  const gone = document.getElementById("gone");
  const list = part.parentElement?.closest("[data-live]");
  if (list) return mark(list);
  if (gone) part.replaceWith(gone.content.cloneNode(true));
  return undefined;
}

function refreshAll() {
  const top = parts().filter((part) => !part.parentElement?.closest("[data-live]"));
  top.forEach(refresh);
}

document.addEventListener("ulei:refresh", (event) => {
  const thing = event.detail.about;
  const about = parts().filter((part) => aboutOf(part).includes(thing));
  (about.length ? about : parts().filter((part) => !part.dataset.about)).forEach(mark);
});

// --- the socket

function subscribe() {
  if (socket?.readyState !== WebSocket.OPEN || epoch === null) return;
  const wanted = [...new Set(parts().flatMap(topicsOf))].filter((topic) => !subscribed.has(topic));
  if (!wanted.length) return;
  for (const topic of wanted) {
    subscribed.add(topic);
    unanswered.add(topic);
  }
  socket.send(JSON.stringify({ subscribe: wanted }));
}

// What changed before the subscription was told to nobody: everything is fetched once after it, on each connection.
function answered(topic) {
  unanswered.delete(topic);
  if (!unanswered.size) refreshAll();
}

// Also said when a conductor began anew: what was known may have been lost on the way.
function greet(nowEpoch) {
  if (nowEpoch !== epoch) known.clear();
  const again = subscribed.size > 0;
  epoch = nowEpoch;
  if (again) refreshAll();
  else subscribe();
}

function connect() {
  if (!parts().length || socket) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws/`);
  subscribed = new Set();
  unanswered = new Set();
  lastHeard = Date.now();
  socket.addEventListener("message", (event) => {
    lastHeard = Date.now();
    retry = FIRST_RETRY_MS;
    found();
    let frame;
    try {
      frame = JSON.parse(event.data);
    } catch {
      return;
    }
    heard(frame);
  });
  socket.addEventListener("close", (event) => {
    socket = null;
    if (event.code === SIGNED_OUT || event.code === OTHER_RIGHTS) return location.reload();
    lose();
    setTimeout(connect, retry + Math.random() * 300);
    retry = Math.min(retry * 2, LONGEST_RETRY_MS);
    return undefined;
  });
}

function lose() {
  if (lostAt) return;
  lostAt = new Date();
  // A short break, as of a restarting panel, is nobody's business.
  lostTimer = setTimeout(() => {
    const time = new Intl.DateTimeFormat(document.documentElement.lang === "en" ? "en-GB" : "ru", { timeStyle: "short" }).format(lostAt);
    line.textContent = line.dataset.lost.replace("{time}", time);
    line.classList.add("is-lost");
  }, 1500);
}

function found() {
  clearTimeout(lostTimer);
  lostAt = null;
  line.textContent = "";
  line.classList.remove("is-lost");
}

// A laptop that slept, or a cable pulled out, leaves a socket that is dead without knowing it.
setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN && Date.now() - lastHeard > SILENCE_MS) socket.close();
}, 5000);
addEventListener("online", () => {
  retry = FIRST_RETRY_MS;
  if (!socket) connect();
});
addEventListener("offline", () => socket?.close());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Date.now() - lastHeard > SILENCE_MS) socket?.close();
});

document.addEventListener("htmx:afterSettle", () => {
  versionsIn(document.body).forEach(([thing, version]) => remember(thing, version));
  subscribe();
});
versionsIn(document.body).forEach(([thing, version]) => remember(thing, version));
connect();
