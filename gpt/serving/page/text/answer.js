// One answer of a model while it comes and after: its text, how fast it came, how it ended.

import { element } from "../dom.js";
import { explain } from "../server/errors.js";
import { Joiner } from "./tokens.js";
import { showAlternativesIn } from "./alternatives.js";
import { Writer } from "./writer.js";

const COUNT = new Intl.NumberFormat("en");

export class Answer {
  text = "";
  /** waiting, writing, done, stopped or failed */
  state = "waiting";
  #units = [];
  #joiner = new Joiner();
  #hasTokens = false;
  #tokensShown;
  #writer;
  #notes = element("div", { className: "notes" });
  #meta = element("p", { className: "meta" });

  /** `body` is where the text is written, where that is not in the answer's own element. */
  constructor(model, { tokensShown, named = false, body = null, onWritten }) {
    this.model = model;
    this.#tokensShown = tokensShown;
    this.body = body ?? element("div", { className: "text" });
    this.#writer = new Writer(this.body, { onWritten, inline: body !== null });
    showAlternativesIn(this.body);
    const name = named ? element("h3", {}, model.id) : null;
    this.element = element("div", { className: "answer" }, name, this.#notes, body ? null : this.body, this.#meta);
    this.#show();
  }

  /** Take all pieces of a stream; never throws: what goes wrong is part of the answer. */
  async take(pieces, { seed, signal }) {
    const begin = performance.now();
    let first = 0;
    let last = 0;
    let count = 0;
    let finish = null;
    try {
      for await (const piece of pieces) {
        const now = performance.now();
        if (piece.dropped) this.#tellDropped(piece.dropped);
        if (piece.tokens.length || piece.text) {
          first ||= now;
          last = now;
          count += piece.tokens.length || 1;
          this.#add(piece);
        }
        finish = piece.finish ?? finish;
        count = piece.usage?.completion_tokens ?? count;
      }
      this.state = "done";
    } catch (error) {
      this.state = signal.aborted ? "stopped" : "failed";
      this.error = error;
      if (this.state === "failed") this.tell(error);
    }
    const rest = this.#joiner.flush();
    this.#units.push(...rest);
    if (this.#asTokens) this.#writer.write(rest);
    this.#writer.flush();
    this.#meta.replaceChildren(...this.#figures({ count, finish, seed, wait: first - begin, writing: last - first }));
    this.#show();
  }

  /** Show an error under the text; with the next stream it is a new answer's turn. */
  tell(error) {
    const { title, advice } = explain(error);
    this.element.querySelector(".error")?.remove();
    this.element.append(element("div", { className: "error", role: "alert" }, element("b", {}, title), " ", advice));
  }

  /** Colour the tokens by their probability, or show plain text. */
  showTokens(shown) {
    if (shown === this.#tokensShown) return;
    this.#tokensShown = shown;
    this.#writer.rewrite(this.#asTokens ? this.#units : [this.text]);
    this.#show();
  }

  /** A server may send no tokens: then there is the text at least. A text may come later than its tokens, so it is the one or the other. */
  get #asTokens() {
    return this.#tokensShown && this.#hasTokens;
  }

  #add({ text, tokens }) {
    if (this.state === "waiting") {
      this.state = "writing";
      this.#show();
    }
    const units = this.#joiner.push(tokens);
    this.#units.push(...units);
    this.text += text;
    this.#hasTokens ||= tokens.length > 0;
    this.#writer.write(this.#asTokens ? units : text ? [text] : []);
  }

  #show() {
    this.element.dataset.state = this.state;
    this.body.classList.toggle("writing", this.state === "waiting" || this.state === "writing");
    this.body.classList.toggle("coloured", this.#tokensShown);
    if (this.#tokensShown) {
      this.body.setAttribute("role", "group");
      this.body.setAttribute("aria-label", "Tokens with their probabilities; arrow keys lead from one to the next");
    } else {
      this.body.removeAttribute("role");
      this.body.removeAttribute("aria-label");
    }
  }

  #tellDropped(count) {
    const messages = count === 1 ? "The oldest message was" : `The ${COUNT.format(count)} oldest messages were`;
    this.#notes.replaceChildren(element("p", { className: "note" }, `${messages} left out: the context has no room for more.`));
  }

  #figures({ count, finish, seed, wait, writing }) {
    const parts = [];
    if (this.state === "stopped") parts.push(element("span", { className: "ended" }, "Stopped"));
    if (finish === "length") parts.push(element("span", { className: "ended" }, "Cut at the limit of tokens"));
    if (!count) {
      if (this.state === "done") parts.push("The model wrote nothing");
    } else {
      parts.push(`${COUNT.format(count)} ${count === 1 ? "token" : "tokens"}`);
      if (count > 1 && writing > 0) parts.push(`${rate((1000 * (count - 1)) / writing)} tokens/s`);
      parts.push(`first after ${(wait / 1000).toFixed(2)} s`, `seed ${seed}`);
    }
    const whole = parts.map((part) => (typeof part === "string" ? part.replaceAll(" ", "\u00a0") : part)); // lines break between figures
    return whole.flatMap((part, place) => (place ? [" · ", part] : [part]));
  }
}

/** Return whether an answer failed before any of its text had come. */
export function cameToNothing(answer) {
  return answer.state === "failed" && answer.text === "";
}

/** Return what a screen reader says when answers have ended. */
export function spoken(answers) {
  return answers
    .filter(({ state }) => state !== "failed") // an error speaks for itself
    .map((answer) => `${answers.length > 1 ? answer.model.id : "Answer"}${answer.state === "stopped" ? ", stopped" : ""}: ${answer.text}`)
    .join("\n");
}

function rate(value) {
  return value >= 100 ? COUNT.format(Math.round(value)) : value.toFixed(1);
}
