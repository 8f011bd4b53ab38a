// Runs before the page is painted, so that a chosen theme does not flash.
(function () {
  try {
    var theme = localStorage.getItem("kith-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (e) { /* storage is off: the system's theme it is */ }
})();
