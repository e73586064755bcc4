// What a page does beyond HTML: it stays true while it is open, times are local too, and keys press its buttons.
// Without this file every page works by links and forms.
"use strict";

let format = null;

function local(at) {
  format ??= new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  return format.format(at);
}

// A time says what it is here once it is pointed at.
document.addEventListener("pointerover", (event) => {
  const time = event.target.closest?.("time[data-local]:not([title])");
  const at = time && new Date(time.dateTime);
  if (at && !isNaN(at)) time.title = `${local(at)} here`;
});

// A table that is wider than its frame can be scrolled by keys as well.
function reach(root) {
  const frames = [...root.querySelectorAll(".scroll")].map((frame) => [frame, frame.scrollWidth <= frame.clientWidth]);
  for (const [frame, fits] of frames) {
    if (fits) { frame.removeAttribute("tabindex"); continue; }
    frame.tabIndex = 0;
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", frame.querySelector("caption")?.textContent.trim() || "table");
  }
}
addEventListener("resize", () => reach(document));

// Regions: the server sends the HTML of those that changed. Where somebody types or has chosen a row, nothing moves.
// Nothing here asks how large something is: the browser lays the page out once, when all is in its place.
const still = matchMedia("(prefers-reduced-motion: reduce)");

// What came while somebody was at it: the server sends a region once.
const late = {};

function replace(regions) {
  for (const [name, html] of Object.entries(regions)) {
    delete late[name];
    const region = document.querySelector(`[data-region="${CSS.escape(name)}"]`);
    const come = document.createElement("template");
    come.innerHTML = html;
    if (!region || region.innerHTML === come.innerHTML) continue;
    const held = document.activeElement;
    if (region.contains(held) && held !== region) { late[name] = html; continue; }
    const opened = [...region.querySelectorAll("details[open][id]")].map((one) => one.id);
    region.replaceChildren(come.content);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (!still.matches) region.animate([{ background: "var(--go-paper)" }, {}], { duration: 1200, easing: "ease-out" });
  }
  requestAnimationFrame(() => reach(document));
  const pulse = document.getElementById("pulse");
  if (pulse) pulse.textContent = `live · ${local(new Date())}`;
}

// Not at once: whoever leaves a field by pressing a button shall have pressed it.
document.addEventListener("focusout", () => setTimeout(() => { if (Object.keys(late).length) replace(late); }, 1000));

const address = document.body.dataset.live;
let stream = null;

function listen() {
  if (!address || stream || document.hidden) return;
  stream = new EventSource(`/live?page=${encodeURIComponent(address)}`);
  stream.addEventListener("regions", (event) => replace(JSON.parse(event.data)));
  stream.addEventListener("end", () => { stream.close(); location.reload(); });
  stream.onerror = () => {
    const pulse = document.getElementById("pulse");
    if (pulse) pulse.textContent = "not live at present · trying again";
    if (stream && stream.readyState === EventSource.CLOSED) { stream = null; setTimeout(listen, 5000); }
  };
}

// A browser has six connections to a host: a window that nobody sees gives its one back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = null; } else listen();
});
addEventListener("pagehide", () => { stream?.close(); stream = null; });

// Keys: a button is pressed by the letter that is its data-key; j and k go through the rows of a list with data-rows.
function rows() { return [...document.querySelectorAll("[data-rows] [data-row]")]; }

function choose(row) {
  for (const other of rows()) other.setAttribute("aria-selected", other === row ? "true" : "false");
  row.setAttribute("tabindex", "-1");
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const all = rows();
  const at = all.findIndex((row) => row.getAttribute("aria-selected") === "true");
  if ((key === "j" || key === "k") && all.length) {
    event.preventDefault();
    choose(all[Math.min(Math.max(at + (key === "j" ? 1 : -1), 0), all.length - 1)]);
    return;
  }
  const pick = `[data-key="${CSS.escape(key)}"]`;
  // what stands in a row is meant only where that row is chosen
  const button = (at >= 0 && all[at].querySelector(pick)) || [...document.querySelectorAll(pick)].find((one) => !one.closest("[data-row]"));
  if (!button) return;
  event.preventDefault();
  if (button.matches("input:not([type=checkbox])")) button.focus(); else button.click();
});

// After a verdict the page says with its address where to go on.
const marked = location.hash && document.getElementById(location.hash.slice(1));
if (marked && marked.matches("[data-rows] [data-row]")) choose(marked);

// First the page is seen; what measures it, and what has the server make it once more, comes after.
addEventListener("load", () => setTimeout(() => { reach(document); listen(); }));
