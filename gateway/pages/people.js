// Sends a form without loading the page anew, and says aloud what came of it.
(function (d) {
  "use strict";
  if (!window.fetch || !window.DOMParser || !window.URLSearchParams) return;
  d.addEventListener("submit", function (e) {
    var form = e.target;
    e.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), credentials: "same-origin" })
      .then(function (r) { return r.text(); })
      .then(show)
      // What fetch cannot do the browser may, or it says why.
      .catch(function () {
        form.removeAttribute("aria-busy");
        form.submit();
      });
  });
  // A page that comes back as it was waits for nothing any more.
  window.addEventListener("pageshow", function (e) {
    if (!e.persisted) return;
    d.querySelectorAll("form").forEach(function (form) { form.removeAttribute("aria-busy"); });
  });
  function show(text) {
    var page = new DOMParser().parseFromString(text, "text/html"), main = page.querySelector("main");
    if (!main) throw new Error("no page");
    d.querySelector("main").replaceWith(d.importNode(main, true));
    var outcome = d.getElementById("outcome");
    if (!outcome) return;
    d.getElementById("live").textContent = outcome.querySelector("p").textContent;
    outcome.focus();
  }
})(document);
