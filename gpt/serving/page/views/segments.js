// Whose text is what in the pad: segments {text, by}, `by` the number of a continuation, 0 for what was typed.

/** Return the whole text. */
export function textOf(segments) {
  return segments.map(({ text }) => text).join("");
}

/**
 * Return the segments after somebody edited the whole text: what is new was typed, all else stays whose it was. Segments that did
 * not change are the same objects, so that what is drawn of them can stay.
 */
export function edited(segments, after) {
  const before = textOf(segments);
  const most = Math.min(before.length, after.length);
  let head = 0;
  while (head < most && before[head] === after[head]) head += 1;
  let tail = 0;
  while (tail < most - head && before.at(-1 - tail) === after.at(-1 - tail)) tail += 1;
  const typed = { text: after.slice(head, after.length - tail), by: 0 };
  return merged([...part(segments, 0, head), typed, ...part(segments, before.length - tail, before.length)]);
}

/** Return the segments without a continuation. */
export function without(segments, continuation) {
  return merged(segments.filter(({ by }) => by !== continuation));
}

/** Return the number of the continuation that the text ends with, 0 if it ends with something typed. */
export function lastBy(segments) {
  return segments.at(-1)?.by ?? 0;
}

function part(segments, from, to) {
  const parts = [];
  let at = 0;
  for (const segment of segments) {
    const begin = Math.max(from, at);
    const end = Math.min(to, at + segment.text.length);
    if (begin === at && end === at + segment.text.length) parts.push(segment);
    else if (begin < end) parts.push({ text: segment.text.slice(begin - at, end - at), by: segment.by });
    at += segment.text.length;
  }
  return parts;
}

/** Join neighbours that were typed; what a model wrote stays apart, for its tokens. */
function merged(segments) {
  const result = [];
  for (const segment of segments) {
    if (segment.text === "") continue;
    const last = result.at(-1);
    if (last && last.by === 0 && segment.by === 0) result[result.length - 1] = { text: last.text + segment.text, by: 0 };
    else result.push(segment);
  }
  return result;
}
