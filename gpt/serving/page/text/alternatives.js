// What the model might have written instead of a token: a small window beside it, by pointer, touch or keyboard.

import { element } from "../dom.js";
import { percent, unitOf, visible } from "./tokens.js";

const LEAVING_MS = 150; // so long the pointer may take from the token to the window

const panel = element("div", { id: "alternatives", role: "tooltip", hidden: true });
let shown = null;
let leaving = 0;

/** Let the tokens inside an element show their alternatives; arrow keys, Home and End lead through them. */
export function showAlternativesIn(container) {
  container.addEventListener("pointerover", (event) => show(tokenAt(event)));
  container.addEventListener("pointerout", leave);
  container.addEventListener("focusin", (event) => show(tokenAt(event)));
  container.addEventListener("focusout", hide);
  container.addEventListener("click", (event) => tokenAt(event)?.focus({ preventScroll: true }));
  container.addEventListener("keydown", (event) => move(event, container));
}

document.body.append(panel);
panel.addEventListener("pointerover", () => clearTimeout(leaving));
panel.addEventListener("pointerout", leave);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
document.addEventListener("scroll", () => shown && place(shown), { capture: true, passive: true });

function tokenAt(event) {
  const token = event.target.closest?.(".token");
  return token && unitOf.has(token) ? token : null;
}

function show(token) {
  clearTimeout(leaving);
  if (!token || token === shown) return;
  hide();
  shown = token;
  panel.replaceChildren(...unitOf.get(token).tokens.map(table));
  panel.hidden = false;
  token.setAttribute("aria-describedby", panel.id);
  token.classList.add("shown");
  place(token);
}

function leave() {
  clearTimeout(leaving);
  if (document.activeElement !== shown) leaving = setTimeout(hide, LEAVING_MS);
}

function hide() {
  clearTimeout(leaving);
  shown?.removeAttribute("aria-describedby");
  shown?.classList.remove("shown");
  shown = null;
  panel.hidden = true;
}

function move(event, container) {
  const token = tokenAt(event);
  if (!token || event.altKey || event.ctrlKey || event.metaKey) return;
  const walker = document.createTreeWalker(container, NodeFilter.SHOW_ELEMENT, (node) =>
    node.classList.contains("token") ? NodeFilter.FILTER_ACCEPT : NodeFilter.FILTER_SKIP,
  );
  walker.currentNode = event.key === "End" || event.key === "Home" ? container : token;
  const next = { ArrowRight: () => walker.nextNode(), ArrowLeft: () => walker.previousNode(), Home: () => walker.nextNode(), End: () => lastOf(walker) }[event.key]?.();
  if (!next) return;
  event.preventDefault();
  token.tabIndex = -1;
  next.tabIndex = 0; // Tab leaves the tokens, and comes back to the one that was left
  next.focus();
}

function lastOf(walker) {
  let last = null;
  while (walker.nextNode()) last = walker.currentNode;
  return last;
}

/** Return the likeliest tokens of a place, and the one that was taken though it is not among them. */
function table(token) {
  const others = token.alternatives.filter(({ text }) => text !== token.text);
  const rows = [{ ...token, taken: true }, ...others].sort((one, other) => other.logprob - one.logprob);
  return element(
    "table",
    {},
    element("caption", { className: "hidden-text" }, `Alternatives to ${visible(token.text)}`),
    ...rows.map(({ text, logprob, taken }) => {
      const bar = element("span", { className: "bar" });
      bar.style.inlineSize = `${100 * Math.exp(logprob)}%`;
      return element(
        "tr",
        { className: taken ? "taken" : "" },
        element("th", { scope: "row" }, visible(text), taken ? element("span", { className: "hidden-text" }, ", taken") : null),
        element("td", { className: "measure" }, bar),
        element("td", { className: "number" }, percent(Math.exp(logprob))),
      );
    }),
  );
}

function place(token) {
  const at = [...token.getClientRects()].at(-1) ?? token.getBoundingClientRect(); // of one that begins with a line end, the next line
  const { offsetWidth: width, offsetHeight: height } = panel;
  const below = at.bottom + 6;
  const top = below + height < innerHeight ? below : Math.max(4, at.top - height - 6);
  panel.style.insetInlineStart = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8))}px`;
  panel.style.insetBlockStart = `${top}px`;
}
