// Elements with their properties and children. Strings become text, never markup.

/** Return an element; what begins with "aria" or is "role" is set as an attribute, all else as a property. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "role" || key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Return a button; `kind` is its look: "plain" (text alone) or "main". */
export function button(label, onclick, kind = "plain") {
  return element("button", { type: "button", className: kind, onclick }, label);
}

/** Grow a text area with its text, where the browser does not do so by itself. */
export function grow(area) {
  if (CSS.supports("field-sizing", "content")) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}
