// Runs before the first paint, so that the page does not flash in the other theme. The key is that of settings.js.
(() => {
  let chosen = "system";
  try {
    chosen = JSON.parse(localStorage.getItem("mien-studio") ?? "{}").theme;
  } catch {
    // Storage may be blocked: the system's theme is used.
  }
  const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
