// The sheets over the page: settings, what the models are, the key.

import { about } from "./views/facts.js";

const keyDialog = document.getElementById("key-dialog");
const aboutDialog = document.getElementById("about-dialog");
const settingsDialog = document.getElementById("settings-dialog");

for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside a sheet closes it, as Escape does. What fills the sheet is inside, so the target is the backdrop.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  for (const close of dialog.querySelectorAll("[data-close]")) close.addEventListener("click", () => dialog.close());
}

export function showSettings(form) {
  settingsDialog.querySelector(".content").replaceChildren(form);
  settingsDialog.showModal();
}

export function showAbout(models) {
  aboutDialog.querySelector(".content").replaceChildren(...models.map(about));
  aboutDialog.showModal();
}

/** Ask for a bearer key; resolves to null if nobody gives one. */
export function askForKey(refused) {
  const input = document.getElementById("key");
  document.getElementById("key-refused").hidden = !refused;
  return new Promise((resolve) => {
    let key = null;
    const form = keyDialog.querySelector("form");
    form.onsubmit = (event) => {
      event.preventDefault();
      key = input.value.trim() || null;
      keyDialog.close();
    };
    keyDialog.onclose = () => {
      input.value = "";
      resolve(key);
    };
    keyDialog.showModal();
  });
}
