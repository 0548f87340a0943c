// Light or dark as it was last chosen, before anything is drawn; without a choice the system decides. No module: those run later.

try {
  const theme = localStorage.getItem("gpt.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing: the system decides.
}
