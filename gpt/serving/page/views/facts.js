// What a model is: its version, its scores, what it was made from, as the server tells it.

import { element } from "../dom.js";

const COUNT = new Intl.NumberFormat("en");
const KINDS = { base: "continues a text", chat: "answers in a conversation", classifier: "tells to which class a text belongs" };

/** Return pairs of strings as a list of terms. */
export function factList(facts) {
  const list = element("dl", { className: "facts" });
  for (const [name, value] of facts) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return list;
}

/** Return all that is known about a model, under its name. */
export function about(model) {
  const own = [["Kind", `${model.kind}: ${KINDS[model.kind] ?? "unknown to this page"}`]];
  if (model.context_length) own.push(["Context", `${COUNT.format(model.context_length)} tokens`]);
  if (model.labels) own.push(["Classes", model.labels.join(", ")]);
  return element("section", {}, element("h3", {}, model.id), factList([...(model.facts ?? []), ...own]));
}
