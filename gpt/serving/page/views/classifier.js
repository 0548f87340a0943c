// A classifier: a text, and how probable each class is, by one model or by two.

import { button, element, grow } from "../dom.js";
import { classify } from "../server/api.js";
import { explain } from "../server/errors.js";
import { percent } from "../text/tokens.js";
import { sendWithEnter } from "./chat.js";

export class Classifier {
  #page;
  #models = [];
  #running = null;
  #input = element("textarea", { id: "input", rows: 4, placeholder: "A text to classify", "aria-label": "Text to classify" });
  #send = element("button", { type: "submit", className: "main" }, "Classify");
  #stop = button("Stop", () => this.stop(), "main");
  #results = element("section", { className: "columns", "aria-label": "Classes" });

  constructor(page) {
    this.#page = page;
    const hint = element("p", { className: "note keys" }, "Enter classifies, Shift+Enter begins a new line");
    const row = element("div", { className: "row" }, this.#send, this.#stop, hint);
    const form = element("form", { className: "subject" }, this.#input, row);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#classify();
    });
    this.#input.addEventListener("input", () => grow(this.#input));
    sendWithEnter(this.#input, form);
    this.element = element("div", { className: "view classifier" }, form, this.#results);
    this.#update();
  }

  get busy() {
    return this.#running !== null;
  }

  show(models) {
    this.#models = models;
    this.element.classList.toggle("wide", models.length > 1);
    this.#results.replaceChildren();
  }

  focus() {
    this.#input.focus();
  }

  stop() {
    this.#running?.abort();
  }

  showTokens() {}

  async #classify() {
    const text = this.#input.value;
    if (this.busy || !text.trim()) return;
    const running = new AbortController();
    this.#running = running;
    this.#update();
    const results = await Promise.all(this.#models.map((model) => this.#ask(model, text, running.signal)));
    this.#running = null;
    this.#results.replaceChildren(...results.map(({ shown }) => shown));
    this.#update();
    this.#page.announce(results.map(({ said }) => said).join(" "));
  }

  async #ask(model, text, signal) {
    const name = this.#models.length > 1 ? element("h3", {}, model.id) : null;
    const begin = performance.now();
    try {
      const [{ label, probs }] = await classify(model.id, text, signal);
      const seconds = ((performance.now() - begin) / 1000).toFixed(2);
      const labels = model.labels ?? probs.map((_, place) => `class ${place}`);
      const likelihood = percent(probs[labels.indexOf(label)] ?? Math.max(...probs));
      const shown = element("div", { className: "answer" }, name, element("p", { className: "verdict" }, label),
        element("ul", { className: "classes" }, ...labels.map((other, place) => classRow(other, probs[place], other === label))),
        element("p", { className: "meta" }, `after ${seconds} s`));
      return { shown, said: `${name ? `${model.id}: ` : ""}${label}, ${likelihood}.` };
    } catch (error) {
      if (signal.aborted) return { shown: element("p", { className: "meta" }, "Stopped"), said: "Stopped." };
      const { title, advice } = explain(error);
      const shown = element("div", { className: "answer" }, name, element("div", { className: "error", role: "alert" }, element("b", {}, title), " ", advice));
      return { shown, said: "" };
    }
  }

  #update() {
    this.#send.hidden = this.busy;
    this.#stop.hidden = !this.busy;
  }
}

function classRow(label, probability, taken) {
  const bar = element("span", { className: "bar" });
  bar.style.inlineSize = `${100 * probability}%`;
  return element("li", { className: taken ? "taken" : "" },
    element("span", { className: "label" }, label), element("span", { className: "number" }, percent(probability)), element("span", { className: "measure" }, bar));
}
