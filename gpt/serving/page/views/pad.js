// A pad: a text that somebody types and a model goes on writing, by turns. What the model wrote is marked.
//
// A text area shows no marks. So its own letters are transparent, and the same text stands behind it, marked, in the same places.

import { button, element } from "../dom.js";
import { streamCompletion } from "../server/api.js";
import { Answer, cameToNothing, spoken } from "../text/answer.js";
import { smallest } from "./chat.js";
import { edited, lastBy, textOf, without } from "./segments.js";

export class Pad {
  #page;
  #models = [];
  #segments = [];
  #elements = new WeakMap(); // of segments
  #answers = new Map(); // by number of continuation, as long as its text is whole
  #count = 0;
  #running = null;
  #area = element("textarea", { id: "pad", spellcheck: false, placeholder: "Begin a text", "aria-label": "Text that the model goes on with" });
  #marked = element("div", { className: "marked", "aria-hidden": "true" });
  #paper = element("div", { className: "paper" }, this.#marked, this.#area);
  #below = element("div", { className: "columns" });
  #goOn = button("Go on", () => this.#continue(), "main");
  #stop = button("Stop", () => this.stop(), "main");
  #again = button("Try again", () => this.#retry());
  #undo = button("Undo", () => this.#takeBack());
  #reading = element("p", { className: "note" }, "Tokens are shown; to type, switch that off.");

  constructor(page) {
    this.#page = page;
    const typed = element("span", { className: "typed" }, "typed");
    const written = element("span", { className: "by-model" }, "written by the model");
    const hint = element("p", { className: "note keys" }, typed, " ", written, " · Ctrl+Enter goes on, Escape stops");
    const row = element("div", { className: "row" }, this.#goOn, this.#stop, this.#again, this.#undo);
    this.element = element("div", { className: "view pad" }, this.#paper, this.#below, element("div", { className: "composer" }, row, this.#reading, hint));
    this.#area.addEventListener("input", () => this.#typed());
    this.#area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
      event.preventDefault();
      this.#continue();
    });
    this.#draw();
  }

  get busy() {
    return this.#running !== null;
  }

  show(models) {
    this.#models = models;
    this.element.classList.toggle("wide", models.length > 1);
    this.#below.replaceChildren();
    this.#draw();
  }

  focus() {
    this.#area.focus({ preventScroll: true });
  }

  stop() {
    this.#running?.abort();
  }

  showTokens(shown) {
    for (const answer of this.#answers.values()) answer.showTokens(shown);
    this.#draw();
  }

  #typed() {
    this.#segments = edited(this.#segments, this.#area.value);
    this.#draw();
  }

  async #continue({ freshSeed = false } = {}) {
    if (this.busy) return;
    const prompt = textOf(this.#segments);
    const sampling = this.#page.settings.sampling(smallest(this.#models), { freshSeed });
    const running = new AbortController();
    const { signal } = running;
    this.#running = running;
    this.#page.stick();
    const answers = this.#models.length > 1 ? this.#beside() : [this.#within()];
    this.#below.replaceChildren(...answers.map(({ element }) => element));
    this.#draw();
    await Promise.all(
      answers.map((answer) =>
        answer.take(streamCompletion({ model: answer.model.id, prompt, ...sampling }, signal), { seed: sampling.seed, signal }),
      ),
    );
    this.#running = null;
    if (answers.length > 1) for (const answer of answers) if (answer.text) this.#offer(answer);
    this.#segments = this.#segments.filter(({ text }) => text);
    this.#draw();
    this.#page.followText();
    this.#page.announce(spoken(answers));
    return answers;
  }

  /** Return an answer that is written into the text itself. */
  #within() {
    const body = element("span", { className: "by-model" });
    const segment = { text: "", by: ++this.#count };
    const answer = new Answer(this.#models[0], {
      tokensShown: this.#page.tokensShown,
      body,
      onWritten: () => {
        this.#area.setRangeText(answer.text.slice(segment.text.length), this.#area.value.length, this.#area.value.length, "preserve");
        segment.text = answer.text;
        this.#page.followText();
      },
    });
    this.#elements.set(segment, body);
    this.#answers.set(segment.by, answer);
    this.#segments = [...this.#segments, segment];
    return answer;
  }

  /** Return the answers of all models, beside each other: the text stays until one of them is kept. */
  #beside() {
    return this.#models.map(
      (model) => new Answer(model, { tokensShown: this.#page.tokensShown, named: true, onWritten: () => this.#page.followText() }),
    );
  }

  #offer(answer) {
    const keep = button("Keep this", () => {
      const segment = { text: answer.text, by: ++this.#count };
      this.#segments = [...this.#segments, segment];
      this.#below.replaceChildren();
      this.#draw();
      this.focus();
    });
    answer.element.append(element("div", { className: "actions" }, keep));
  }

  #takeBack() {
    this.#segments = without(this.#segments, this.#latest());
    this.#below.replaceChildren();
    this.#draw();
    this.focus();
  }

  async #retry() {
    if (this.#models.length > 1) return void (await this.#continue({ freshSeed: true }));
    const before = this.#segments;
    const drawn = [...this.#below.childNodes];
    this.#segments = without(before, this.#latest());
    this.#draw();
    const [answer] = await this.#continue({ freshSeed: true });
    if (!cameToNothing(answer)) return;
    this.#segments = before; // what was there is better than nothing
    this.#below.replaceChildren(...drawn, ...answer.element.querySelectorAll(".error"));
    this.#draw();
  }

  /** Return the number of the continuation that came last and is still in the text, 0 if there is none. */
  #latest() {
    return Math.max(0, ...this.#segments.map(({ by }) => by));
  }

  #draw() {
    const text = textOf(this.#segments);
    if (this.#area.value !== text) this.#area.value = text;
    const reading = this.#page.tokensShown && this.#segments.some(({ by }) => by);
    this.#marked.replaceChildren(...this.#segments.map((segment) => this.#elementOf(segment)), element("span", {}, "\u200b"));
    this.#paper.classList.toggle("reading", reading);
    this.#marked.ariaHidden = String(!reading);
    this.#area.inert = reading;
    this.#area.readOnly = this.busy; // the model goes on from what it was sent
    this.#reading.hidden = !reading;
    this.#goOn.hidden = this.busy;
    this.#stop.hidden = !this.busy;
    const beside = this.#models.length > 1 && this.#below.childElementCount > 0;
    this.#again.disabled = this.busy || !(beside || (this.#models.length === 1 && lastBy(this.#segments) === this.#latest() && this.#latest()));
    this.#undo.disabled = this.busy || !this.#latest();
  }

  #elementOf(segment) {
    let made = this.#elements.get(segment);
    if (!made) {
      made = element("span", { className: segment.by ? "by-model" : "typed" }, segment.text);
      this.#elements.set(segment, made);
    }
    return made;
  }
}
