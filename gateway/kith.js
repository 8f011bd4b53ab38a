(function (w, d, n) {
  var q = (w.kith && w.kith.q) || [], s = d.currentScript || d.querySelector("script[data-client]");
  if (w.kith && w.kith.v) return;
  var client = s && s.getAttribute("data-client"), base = s ? s.src.replace(/\/kith\.js.*$/, "") : "";
  var off = n.globalPrivacyControl === true || n.doNotTrack === "1" || w.doNotTrack === "1";

  // One body a tick, and one request at a time: before the first answer there
  // is no cookie, and each request without one would make a new browser.
  var queue = [], timer = 0, busy = false;
  function body() {
    return JSON.stringify({ client: client, events: queue.splice(0, 20) });
  }
  function flush() {
    clearTimeout(timer);
    timer = 0;
    if (busy || !queue.length) return;
    if (!w.fetch) return leave();
    busy = true;
    // text/plain needs no preflight.
    fetch(base + "/v1/events", { method: "POST", body: body(), headers: { "Content-Type": "text/plain" }, credentials: "include", keepalive: true }).then(next, next);
  }
  function next() {
    busy = false;
    flush();
  }
  function leave() {
    while (queue.length && n.sendBeacon) n.sendBeacon(base + "/v1/events", new Blob([body()], { type: "text/plain" }));
  }
  function put(e) {
    if (off || !client || queue.length > 200) return;
    e.url = clean(location.href);
    if (d.referrer) e.ref = clean(d.referrer);
    queue.push(e);
    timer = timer || setTimeout(flush, 50);
  }
  // Fragments and queries often hold what must not be stored.
  function clean(url) {
    return url.split(/[?#]/)[0].slice(0, 2048);
  }
  function ask(path, method, cb) {
    if (!w.fetch) return;
    fetch(base + path, { method: method, credentials: "include" })
      .then(function (r) { return r.json(); })
      .then(function (x) { if (cb) cb(x); })
      .catch(function () { if (cb) cb({}); });
  }
  var does = {
    event: function (name, props) { put({ event: String(name), props: props || {} }); },
    page: function (props) { put({ event: "page", props: props || {} }); },
    identify: function (kind, value, proof) {
      put({ event: "identify", identities: [kind + ":" + value], proof: proof || undefined });
      flush();
    },
    segments: function (cb) {
      if (off || !client) return cb([]);
      ask("/v1/me/segments?client=" + encodeURIComponent(client), "GET", function (x) { cb(x.segments || []); });
    },
    optout: function (cb) {
      queue = [];
      off = true;
      ask("/v1/optout", "POST", cb);
    }
  };
  function kith(what) {
    var f = does[what];
    if (f) f.apply(null, [].slice.call(arguments, 1));
  }
  kith.v = 1;
  w.kith = kith;
  w.addEventListener("pagehide", leave);
  var props = {}, m = (s && s.dataset) || {};
  for (var k in m) if (k !== "client") props[k] = m[k];
  kith("page", props);
  for (var i = 0; i < q.length; i++) kith.apply(null, q[i]);
})(window, document, navigator);
