// Runs before the first paint to avoid a flash of the other theme. The key is the same as in settings.js.
(() => {
  let theme = "system";
  try {
    theme = JSON.parse(localStorage.getItem("mien-studio") ?? "{}").theme;
  } catch {
    // Storage may be blocked; use the system's theme.
  }
  const dark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
