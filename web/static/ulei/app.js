// What pages need beside htmx: notices, dialogs, reasons of disabled buttons, local times, keys.

const byId = (id) => document.getElementById(id);
const language = document.documentElement.lang || "ru";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Whoever types keeps what is typed, also while an answer arrives; an open menu or dialog stays open.
Object.assign(window.Idiomorph.defaults, { ignoreActiveValue: true });
Object.assign(window.Idiomorph.defaults.callbacks, {
  beforeAttributeUpdated: (name, element) => !(name === "open" && /^(DIALOG|DETAILS)$/.test(element.tagName)),
});

// --- notices

export function notice(text, level = "info", link = "") {
  const box = document.createElement("div");
  box.className = `notice notice-${level}`;
  if (level === "error") box.setAttribute("role", "alert");
  if (link) {
    const anchor = document.createElement("a");
    anchor.href = link;
    anchor.textContent = text;
    box.append(anchor);
  } else {
    box.append(text);
  }
  byId("toasts").append(box);
  fade(box, level);
}

function fade(box, level) {
  setTimeout(() => box.remove(), level === "error" ? 15000 : 6000);
}

for (const box of document.querySelectorAll("#toasts .notice")) {
  fade(box, box.classList.contains("notice-error") ? "error" : "info");
}

document.addEventListener("ulei:notice", (event) => {
  notice(event.detail.text, event.detail.level, event.detail.link);
});
const words = byId("failed").dataset;
document.addEventListener("htmx:sendError", () => notice(words.network, "error"));
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status !== 401) notice(words.server, "error");
});

// --- why a button is disabled: on a click, a touch, Enter, and when the keyboard comes to it

const why = byId("why");

function showWhy(button) {
  why.textContent = button.dataset.why;
  if (!why.matches(":popover-open")) why.showPopover();
  place(why, button);
}

function hideWhy() {
  if (why.matches(":popover-open")) why.hidePopover();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[aria-disabled=true]");
  if (!button) return hideWhy();
  event.preventDefault();
  event.stopPropagation();
  if (button.dataset.why) showWhy(button);
}, true);
document.addEventListener("focusin", (event) => {
  const button = event.target.closest("[data-why]");
  if (button && button.matches(":focus-visible")) showWhy(button);
  else hideWhy();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideWhy();
});

// --- menus and tooltips stand beside what opened them

function place(box, anchor) {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = box;
  let left = Math.max(8, Math.min(at.right - width, innerWidth - width - 8));
  const below = at.bottom + 4, above = at.top - height - 4, beside = at.left - width - 4;
  let top = below + height > innerHeight - 8 ? Math.max(8, above) : below;
  // With room neither below nor above: beside, so that what opened it can still be pressed.
  if (top !== below && above < 8 && beside >= 8) {
    left = beside;
    top = Math.max(8, innerHeight - height - 8);
  }
  box.style.left = `${left}px`;
  box.style.top = `${top}px`;
}

// One menu for all rows of a list: what is in it is fetched when it is opened.
const menu = byId("menu");
let opener = null;
let dismissed = null;

// A press on the button of an open menu closes it, as the browser does by itself; the click must not open it again.
document.addEventListener("pointerdown", () => {
  dismissed = menu?.matches(":popover-open") ? opener : null;
}, true);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-menu]");
  const pressed = dismissed;
  dismissed = null;
  if (!button) return;
  if (button === pressed) return menu.hidePopover();
  opener = button;
  try {
    const answer = await fetch(button.dataset.menu, { headers: { "HX-Request": "true" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const content = await answer.text();
    if (opener !== button) return; // another one was opened meanwhile
    menu.innerHTML = content;
    window.htmx.process(menu);
    menu.setAttribute("aria-label", button.getAttribute("aria-label"));
    if (!menu.matches(":popover-open")) menu.showPopover();
    place(menu, button);
    menu.querySelector(".menu-item")?.focus({ focusVisible: false });
  } catch {
    notice(words.network, "error");
  }
});
menu?.addEventListener("toggle", (event) => {
  // The keyboard goes back to where it was; the button may be a new one after its row was drawn anew.
  if (event.newState !== "closed" || !opener) return;
  if (menu.contains(document.activeElement) || document.activeElement === document.body) {
    document.querySelector(`[data-menu="${opener.dataset.menu}"]`)?.focus({ focusVisible: false });
  }
  opener = null;
});
addEventListener("scroll", (event) => {
  hideWhy();
  if (event.target !== menu && menu?.matches(":popover-open")) menu.hidePopover();
}, { passive: true, capture: true });
document.addEventListener("keydown", (event) => {
  if (!event.target.closest?.("#menu") || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const items = [...menu.querySelectorAll(".menu-item")];
  const step = event.key === "ArrowDown" ? 1 : -1;
  items[(items.indexOf(event.target) + step + items.length) % items.length].focus();
});
document.addEventListener("click", (event) => {
  if (event.target.closest(".menu-item:not([aria-disabled=true])")) menu.hidePopover();
});

// --- the confirmation dialog: the same page that opens without JavaScript, fetched into a dialog

const dialog = byId("dialog");

document.addEventListener("click", async (event) => {
  if (event.target.closest("[data-dialog-close]") && dialog.open) {
    event.preventDefault();
    dialog.close();
    return;
  }
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  try {
    const answer = await fetch(link.href, { headers: { "HX-Request": "true" } });
    if (!answer.ok) throw new Error(String(answer.status));
    dialog.innerHTML = await answer.text();
    window.htmx.process(dialog);
    dialog.showModal();
  } catch {
    location.assign(link.href);
  }
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
document.addEventListener("htmx:afterRequest", (event) => {
  // A field that asks while one types is answered inside the dialog.
  if (dialog.contains(event.detail.elt) && event.detail.elt.matches("form")) dialog.close();
});

// --- forms

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-once]");
  if (!form || event.defaultPrevented) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
});
// A form that is on its way needs no more checks; the browser would only break them off.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.querySelector("form[data-sent]")) event.preventDefault();
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

function markErrors() {
  for (const field of document.querySelectorAll("[aria-describedby*='e-']")) {
    const slots = field.getAttribute("aria-describedby").split(" ").filter((id) => id.startsWith("e-"));
    field.setAttribute("aria-invalid", String(slots.some((id) => byId(id)?.textContent.trim())));
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-focus]");
  const field = link && (byId(link.dataset.focus) || document.querySelector(`[aria-describedby~="e-${link.dataset.focus}"]`));
  if (!field) return;
  event.preventDefault();
  field.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "center" });
  field.focus({ preventScroll: true });
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    notice(words.copied);
  } catch {
    // Without https a browser gives no clipboard: the text is selected, Ctrl+C does the rest.
    getSelection().selectAllChildren(source);
  }
});

// --- times in the reader's own zone

const formats = new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, { dateStyle: "short", timeStyle: "medium" });

export function localise(root = document) {
  for (const time of root.querySelectorAll("time[data-local]")) {
    time.textContent = formats.format(new Date(time.dateTime));
    time.title = time.dateTime;
  }
}

// --- keys: / goes to the search

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.querySelector("[data-search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});

function settle() {
  localise();
  markErrors();
}

document.addEventListener("htmx:afterSettle", settle);

// A form that got other fields is checked anew. What the check itself has put there is no reason to: it would go on
// for ever.
document.addEventListener("htmx:afterSettle", ({ target, detail }) => {
  if (detail.requestConfig?.elt.id === "check") return;
  target.closest?.("form")?.dispatchEvent(new CustomEvent("ulei:refilled"));
});
document.addEventListener("ulei:morphed", settle);
settle();
