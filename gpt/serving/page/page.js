// The page as a whole: which models there are, which view shows the chosen one, and what all views share.

import { askForKey, showAbout, showSettings } from "./dialogs.js";
import { button, element } from "./dom.js";
import { listModels, onKeyNeeded } from "./server/api.js";
import { explain } from "./server/errors.js";
import { Settings } from "./settings.js";
import { local } from "./storage.js";
import { Chat } from "./views/chat.js";
import { Classifier } from "./views/classifier.js";
import { Pad } from "./views/pad.js";

const VIEWS = { base: Pad, chat: Chat, classifier: Classifier };
const KINDS = { base: "Go on with a text", chat: "Chat", classifier: "Classify a text" };
const NEAR_END_PIXELS = 100; // so near its end the page goes on following a growing text

const main = document.getElementById("main");
const picker = document.getElementById("model");
const other = document.getElementById("other");
const tokens = document.getElementById("tokens");
const live = document.getElementById("live");
const themeButton = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");

const views = {};
let models = [];
let sticking = true;

/** What a view may ask of the page. */
const page = {
  settings: new Settings(),
  get tokensShown() {
    return tokens.checked;
  },
  announce(text) {
    live.textContent = text;
  },
  stick() {
    sticking = true;
  },
  /** Keep the end of a growing text in sight, unless somebody has scrolled away from it. */
  followText() {
    if (sticking) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  },
};

onKeyNeeded(askForKey);
picker.addEventListener("change", () => showModels());
other.addEventListener("change", () => showModels({ keepOther: true }));
tokens.addEventListener("change", () => {
  for (const view of Object.values(views)) view.showTokens(tokens.checked);
  showLegend();
});
document.getElementById("settings").addEventListener("click", () => showSettings(page.settings.form()));
document.getElementById("about").addEventListener("click", () => showAbout(chosen()));
document.addEventListener("keydown", (event) => event.key === "Escape" && !document.querySelector("dialog[open]") && currentView()?.stop());
document.addEventListener("scroll", () => {
  const { scrollHeight, clientHeight } = document.documentElement;
  sticking = scrollHeight - clientHeight - scrollY < NEAR_END_PIXELS;
}, { passive: true });
themeButton.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  local.set("gpt.theme", theme);
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();
start();

async function start() {
  main.replaceChildren(element("p", { className: "view note" }, "Asking the server for its models …"));
  try {
    models = (await listModels()).filter(({ kind }) => Object.hasOwn(VIEWS, kind));
  } catch (error) {
    const { title, advice } = explain(error);
    showProblem(title, advice);
    return;
  }
  if (!models.length) {
    showProblem("The server has no model to talk to.", "Start gpt serve with one.");
    return;
  }
  const groups = Object.keys(VIEWS).map((kind) => options(KINDS[kind], models.filter((model) => model.kind === kind)));
  picker.replaceChildren(...groups.filter(({ childElementCount }) => childElementCount));
  const first = models.find((model) => model.default) ?? models[0];
  picker.value = first.id;
  document.body.classList.add("ready");
  showModels();
}

function options(label, models) {
  return element("optgroup", { label }, ...models.map(({ id }) => element("option", { value: id }, id)));
}

function showProblem(title, advice) {
  const told = element("div", { className: "error", role: "alert" }, element("b", {}, title), " ", advice);
  main.replaceChildren(element("div", { className: "view" }, told, element("div", { className: "actions" }, button("Try again", start, "main"))));
}

function chosen() {
  return [picker, other].map(({ value }) => models.find(({ id }) => id === value)).filter(Boolean);
}

function currentView() {
  return views[chosen()[0]?.kind];
}

function showModels({ keepOther = false } = {}) {
  for (const view of Object.values(views)) view.stop();
  const model = models.find(({ id }) => id === picker.value);
  const others = models.filter(({ id, kind }) => kind === model.kind && id !== model.id);
  if (!keepOther) {
    const before = other.value;
    other.replaceChildren(element("option", { value: "" }, "Compare"), ...others.map(({ id }) => element("option", { value: id }, id)));
    other.value = others.some(({ id }) => id === before) ? before : "";
  }
  other.parentElement.hidden = !others.length;
  tokens.parentElement.hidden = document.getElementById("settings").hidden = model.kind === "classifier"; // nothing is drawn
  showLegend();
  document.body.classList.toggle("comparing", other.value !== "");
  document.title = `${model.id} · gpt serve`;
  views[model.kind] ??= new VIEWS[model.kind](page);
  const view = views[model.kind];
  view.show(chosen());
  if (view.element.parentElement !== main) {
    main.replaceChildren(view.element);
    // A keyboard on a phone's screen that nobody asked for hides half of the page.
    if (matchMedia("(hover: hover)").matches && document.activeElement === document.body) view.focus();
  }
}

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : dark.matches;
}

function showLegend() {
  document.getElementById("legend").hidden = !tokens.checked || tokens.parentElement.hidden;
}

function showTheme() {
  themeButton.setAttribute("aria-pressed", String(isDark()));
}
