// Tokens as they are shown: coloured by their probability. A token may be a part of a character, so several may be one unit.

const LARGE = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const SMALL = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });
const BOUNDS = [0.8, 0.4, 0.15, 0.04]; // a unit at least as likely as the first has no colour; page.css has one for each other step

/** The units that elements of class "token" show. */
export const unitOf = new WeakMap();

/** Makes units, {text, tokens, probability}, of tokens that come one by one: each holds whole characters. */
export class Joiner {
  #tokens = [];

  push(tokens) {
    const units = [];
    for (const token of tokens) {
      this.#tokens.push(token);
      if (!endsInside(this.#tokens.flatMap(({ bytes }) => bytes))) units.push(...this.flush());
    }
    return units;
  }

  /** Return what is left over, at the end of a text that was cut inside a character. */
  flush() {
    const tokens = this.#tokens;
    this.#tokens = [];
    if (!tokens.length) return [];
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(tokens.flatMap(({ bytes }) => bytes)));
    return [{ text, tokens, probability: Math.exp(tokens.reduce((sum, { logprob }) => sum + logprob, 0)) }];
  }
}

/** Return whether bytes of UTF-8 end before their last character does. */
function endsInside(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
    if (byte < 0x80) return false;
  }
  return false;
}

/** Return a unit as an element that can be focused, though not by Tab: arrow keys lead from one to the next. */
export function tokenElement(unit) {
  const span = document.createElement("span");
  span.className = "token";
  span.dataset.step = BOUNDS.filter((bound) => unit.probability < bound).length;
  span.tabIndex = -1;
  span.setAttribute("role", "button");
  span.setAttribute("aria-label", `${visible(unit.text)}, ${percent(unit.probability)}`);
  span.textContent = unit.text;
  unitOf.set(span, unit);
  return span;
}

export function percent(probability) {
  if (probability > 0.9995 && probability < 1) return "> 99.9%";
  if (probability < 0.0001 && probability > 0) return "< 0.01%";
  return (probability < 0.1 ? SMALL : LARGE).format(probability);
}

/** Return a token's text with its spaces and line ends to be seen. */
export function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(nothing)";
}
