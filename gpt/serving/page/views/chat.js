// A chat: questions, each with the answer of one model or the answers of two beside each other.

import { button, element, grow } from "../dom.js";
import { streamChat } from "../server/api.js";
import { Answer, cameToNothing, spoken } from "../text/answer.js";
import { factList } from "./facts.js";
import { Conversation } from "./conversation.js";

export class Chat {
  #page;
  #models = [];
  #conversation = new Conversation();
  #running = null;
  #welcome = element("div", { className: "welcome" });
  #list = element("section", { className: "turns", "aria-label": "Conversation" });
  #input = element("textarea", { id: "message", rows: 1, placeholder: "Write a message", "aria-label": "Message" });
  #send = element("button", { type: "submit", className: "main" }, "Send");
  #stop = button("Stop", () => this.stop(), "main");
  #fresh = button("New chat", () => this.#clear());

  constructor(page) {
    this.#page = page;
    const hint = element("p", { className: "note keys" }, "Enter sends, Shift+Enter begins a new line, Escape stops");
    const row = element("div", { className: "row" }, this.#input, this.#send, this.#stop);
    const form = element("form", { className: "composer" }, row, element("div", { className: "under" }, hint, this.#fresh));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#input.addEventListener("input", () => grow(this.#input));
    sendWithEnter(this.#input, form);
    this.element = element("div", { className: "view chat" }, this.#welcome, this.#list, form);
    this.#update();
  }

  get busy() {
    return this.#running !== null;
  }

  /** Take one model, or two to compare; the conversation goes on with them. */
  show(models) {
    this.#models = models;
    this.element.classList.toggle("wide", models.length > 1);
    this.#welcome.replaceChildren(
      ...models.map((model) => element("div", {}, element("h2", {}, model.id), factList(model.facts ?? []))),
    );
    this.#update();
  }

  focus() {
    this.#input.focus();
  }

  stop() {
    this.#running?.abort();
  }

  showTokens(shown) {
    for (const { answers } of this.#conversation.turns) for (const answer of answers) answer.showTokens(shown);
  }

  #ask() {
    const question = this.#input.value;
    if (this.busy || !question.trim()) return;
    this.#input.value = "";
    grow(this.#input);
    if (this.#conversation.last) this.#closeEdit(this.#conversation.last);
    const turn = this.#conversation.begin(question);
    turn.columns = element("div", { className: "columns" });
    turn.asked = element("div", { className: "question" });
    turn.actions = element("div", { className: "actions" });
    turn.element = element("article", { "aria-label": "Turn" }, turn.asked, turn.columns, turn.actions);
    this.#list.append(turn.element);
    this.#page.stick();
    this.#answer(turn);
  }

  async #answer(turn, { freshSeed = false } = {}) {
    const running = new AbortController();
    const models = this.#models;
    const sampling = this.#page.settings.sampling(smallest(models), { freshSeed });
    const earlier = turn.answers;
    const { signal } = running;
    this.#running = running;
    turn.answers = models.map(
      (model) =>
        new Answer(model, { tokensShown: this.#page.tokensShown, named: models.length > 1, onWritten: () => this.#page.followText() }),
    );
    turn.asked.replaceChildren(element("p", { className: "text" }, turn.question));
    turn.columns.replaceChildren(...turn.answers.map((answer) => answer.element));
    this.#update();
    this.#page.followText();
    await Promise.all(
      turn.answers.map((answer, place) => {
        const messages = this.#conversation.messages(place, this.#page.settings.system);
        return answer.take(streamChat({ model: answer.model.id, messages, ...sampling }, signal), { seed: sampling.seed, signal });
      }),
    );
    this.#keepEarlier(turn, earlier);
    this.#running = null;
    this.#update();
    this.#page.followText();
    this.#page.announce(spoken(turn.answers));
  }

  /** Where another try came to nothing, the answer before it stays, with what went wrong. */
  #keepEarlier(turn, earlier) {
    turn.answers = turn.answers.map((answer, place) => {
      const before = earlier[place];
      if (!cameToNothing(answer) || !before?.text || before.model !== answer.model) return answer;
      before.showTokens(this.#page.tokensShown);
      before.tell(answer.error);
      answer.element.replaceWith(before.element);
      return before;
    });
  }

  #edit(turn) {
    const area = element("textarea", { value: turn.question, "aria-label": "Your message, to edit", rows: 2 });
    const form = element("form", { className: "edit" }, area, element("div", { className: "actions" },
      element("button", { type: "submit", className: "plain" }, "Send again"),
      button("Cancel", () => this.#closeEdit(turn))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy || !area.value.trim()) return;
      turn.question = area.value;
      turn.answers = [];
      this.#answer(turn);
      this.focus();
    });
    area.addEventListener("input", () => grow(area));
    sendWithEnter(area, form);
    turn.asked.replaceChildren(form);
    turn.actions.replaceChildren();
    area.focus();
    grow(area);
  }

  #closeEdit(turn) {
    turn.asked.replaceChildren(element("p", { className: "text" }, turn.question));
    this.#update();
  }

  #clear() {
    this.#conversation = new Conversation();
    this.#list.replaceChildren();
    this.#update();
    this.focus();
  }

  #update() {
    const { turns, last } = this.#conversation;
    this.#welcome.hidden = turns.length > 0;
    this.#send.hidden = this.busy;
    this.#stop.hidden = !this.busy;
    this.#fresh.hidden = this.busy || !turns.length;
    for (const turn of turns) if (turn !== last) turn.actions.replaceChildren();
    if (!last) return;
    const actions = [button("Try again", () => this.#again(last)), button("Edit message", () => this.#edit(last))];
    last.actions.replaceChildren(...(this.busy ? [] : actions));
  }

  #again(turn) {
    // An answer that failed is asked for once more as it was; one that came gets another seed, or it would come again.
    this.#answer(turn, { freshSeed: turn.answers.some(({ text }) => text) });
    this.focus();
  }
}

/** Return the model with the least context: two that are compared get the same limit. */
export function smallest(models) {
  return models.toSorted((one, other) => (one.context_length ?? 0) - (other.context_length ?? 0))[0];
}

/** Let Enter submit a form, but not while an input method composes a character. */
export function sendWithEnter(area, form) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
