// Runs before anything is painted: a stored choice of theme must not flash the other one. "auto" follows the system.
const stored = (() => {
  try {
    return localStorage.getItem("pnag-theme");
  } catch {
    return null; // storage is off; the system decides
  }
})();
document.documentElement.dataset.theme = stored === "light" || stored === "dark" ? stored : "auto";
