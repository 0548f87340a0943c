// Puts a growing text into an element: what is there stays as it is, so that the thousandth token costs as little as the first.

import { tokenElement } from "./tokens.js";

const BLOCK_LENGTH = 1500; // characters, after which the next line begins a block: the browser lays out the last block alone

export class Writer {
  #element;
  #onWritten;
  #inline;
  #waiting = [];
  #frame = 0;
  #block = null;
  #length = 0;

  /** `onWritten` is called after each write, a frame apart at least. `inline`: the text goes on in the middle of a line. */
  constructor(element, { onWritten = () => {}, inline = false } = {}) {
    this.#element = element;
    this.#onWritten = onWritten;
    this.#inline = inline;
  }

  /** Write a string, or units of tokens, with the next frame. */
  write(pieces) {
    this.#waiting.push(...pieces);
    // A page in the background draws no frames: what it gets waits, and is written when somebody looks or at the end.
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const pieces = this.#waiting;
    this.#waiting = [];
    for (const piece of pieces) {
      if (typeof piece === "string") this.#writeText(piece);
      else this.#writeUnit(piece);
    }
    if (pieces.length) this.#onWritten();
  }

  /** Begin again, with other pieces at once. */
  rewrite(pieces) {
    this.#waiting = [];
    this.#element.replaceChildren();
    this.#block = null;
    this.write(pieces);
    this.flush();
  }

  #writeText(text) {
    let from = 0;
    while (from < text.length) {
      const block = this.#currentBlock();
      const room = BLOCK_LENGTH - this.#length;
      const end = text.indexOf("\n", from + Math.max(0, room)) + 1 || text.length;
      const part = text.slice(from, end);
      if (block.lastChild?.nodeType === Node.TEXT_NODE) block.lastChild.appendData(part);
      else block.append(part);
      this.#count(part);
      from = end;
    }
  }

  #writeUnit(unit) {
    const token = tokenElement(unit);
    if (!this.#element.firstElementChild?.firstElementChild) token.tabIndex = 0; // by which Tab comes in
    this.#currentBlock().append(token);
    this.#count(unit.text);
  }

  #currentBlock() {
    if (!this.#block) {
      this.#block = document.createElement(this.#inline ? "span" : "div");
      this.#length = 0;
      this.#element.append(this.#block);
    }
    return this.#block;
  }

  #count(part) {
    this.#length += part.length;
    if (this.#length >= BLOCK_LENGTH && part.endsWith("\n")) this.#block = null;
  }
}
