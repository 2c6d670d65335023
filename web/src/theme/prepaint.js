// Runs before the first paint, so that a chosen theme never flashes. Storage may be forbidden; the system's theme is then used.
(function () {
  try {
    var chosen = localStorage.getItem("parallelix.theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch (_) {
    // No storage: the system decides.
  }
})();
