// How text is drawn from a model: what a person set, kept in the browser, and the part of a request that it becomes.

import { element } from "./dom.js";
import { local } from "./storage.js";

const KEPT = "gpt.settings";
const MOST_TOKENS = 200; // of an answer, where nothing is set and the model's context has room for them

// An empty field leaves the choice to what `empty` says.
const FIELDS = [
  { name: "temperature", label: "Temperature", least: 0, most: 5, step: "any", empty: "1", help: "0 takes the likeliest token each time" },
  { name: "top_p", label: "Top p", least: 0.001, most: 1, step: "any", empty: "off", help: "share of probability to draw from, at most 1" },
  { name: "top_k", label: "Top k", least: 1, most: 1_000_000, step: 1, empty: "off", help: "number of tokens to draw from" },
  { name: "max_tokens", label: "Max tokens", least: 1, most: 1_000_000, step: 1, empty: "auto", help: `at most ${MOST_TOKENS}, or half of the context` },
  { name: "seed", label: "Seed", least: 0, most: 4_294_967_295, step: 1, empty: "random", help: "the same seed gives the same text" },
];

export class Settings {
  #values = read();

  /** Return the settings as fields of a request. Without a seed of its own each answer gets a random one, which it shows. */
  sampling(model, { freshSeed = false } = {}) {
    const { system, ...values } = this.#values;
    const context = model.context_length || 2 * MOST_TOKENS;
    const most = Math.max(1, Math.min(MOST_TOKENS, Math.floor(context / 2)));
    const seed = freshSeed ? null : (values.seed ?? null);
    return { max_tokens: most, ...values, seed: seed ?? randomSeed() };
  }

  /** Return the text that a chat begins with, for the model alone; empty if there is none. */
  get system() {
    return this.#values.system ?? "";
  }

  /** Return the fields as a form that keeps what is entered. What is out of range is marked, and not used. */
  form() {
    const area = element("textarea", { id: "system", rows: 3, value: this.system });
    area.addEventListener("input", () => this.#keep("system", area.value || null));
    const inputs = FIELDS.map((field) => this.#input(field));
    const reset = element("button", { type: "button", className: "plain" }, "Reset all");
    reset.addEventListener("click", () => {
      for (const { name } of FIELDS) this.#keep(name, null);
      this.#keep("system", null);
      form.replaceWith(this.form());
    });
    const rows = inputs.map(({ row }) => row);
    const prompt = element("div", { className: "setting wide" }, element("label", { htmlFor: "system" }, "System prompt"), area,
      element("p", { className: "note" }, "What a chat begins with; the model reads it before your messages."));
    const form = element("form", { className: "settings", onsubmit: (event) => event.preventDefault() }, ...rows, prompt, reset);
    return form;
  }

  #input({ name, label, least, most, step, empty, help }) {
    const input = element("input", { id: name, type: "number", inputMode: "decimal", min: least, max: most, step, placeholder: empty });
    input.value = this.#values[name] ?? "";
    input.setAttribute("aria-describedby", `${name}-help`);
    const note = element("p", { className: "note", id: `${name}-help` }, help);
    input.addEventListener("input", () => {
      const right = input.validity.valid;
      input.setAttribute("aria-invalid", String(!right));
      note.textContent = right ? help : `${step === 1 ? "A whole number" : "A number"} from ${least} to ${most}, or nothing.`;
      if (right) this.#keep(name, input.value === "" ? null : Number(input.value));
    });
    return { row: element("div", { className: "setting" }, element("label", { htmlFor: name }, label), input, note) };
  }

  #keep(name, value) {
    if (value === null) delete this.#values[name];
    else this.#values[name] = value;
    local.set(KEPT, JSON.stringify(this.#values));
  }
}

/** Return what was kept, without anything that no field would take: another version of the page may have written it. */
function read() {
  let kept;
  try {
    kept = JSON.parse(local.get(KEPT) ?? "{}") ?? {};
  } catch {
    kept = {};
  }
  const values = {};
  for (const { name, least, most, step } of FIELDS) {
    const value = kept[name];
    if (typeof value === "number" && value >= least && value <= most && (step !== 1 || Number.isInteger(value))) values[name] = value;
  }
  if (typeof kept.system === "string" && kept.system) values.system = kept.system;
  return values;
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}
