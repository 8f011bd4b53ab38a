// The tag for publishers' pages. docs/api.md says what it does and
// docs/decisions/tag.md why. kith.min.js, which is served, is built from this
// file: make tag.
((w, d, n) => {
  const script = d.currentScript || d.querySelector("script[data-client]");
  // Browsers from before 2018 are left alone: calls go on into the queue.
  if (!script || !w.AbortController) return;

  const data = script.dataset;
  const base = script.src.split("/kith.js")[0];
  const warn = text => console.warn("kith: " + text);
  if (!data.client) return warn("no data-client");

  const silent = n.doNotTrack == 1 || w.doNotTrack == 1 || n.globalPrivacyControl;
  const outKey = "kith_optout", segmentsKey = "kith_segments";
  // At most 100 events wait, and as many calls; what is sent at once has at most 2e4 characters.

  // ---- What may be done

  let gate = 0; // 0: not decided, 1: open, -1: shut
  let out; // opted out: the gate stays shut
  let signals = ""; // what the consent platform said, as a query

  // Storage may be missing or forbidden, then nothing is remembered. A value
  // of null removes; without a value it reads.
  function storage(key, value) {
    try {
      const s = w.localStorage;
      if (value === undefined) return s.getItem(key);
      if (value === null) s.removeItem(key);
      else s.setItem(key, value);
    } catch (e) {}
  }

  function shut() {
    // Also of an earlier visit, whose consent was withdrawn where no tag was: to
    // take one's own away needs no consent.
    storage(segmentsKey, null);
    gate = -1;
    held = first = 0; // nor does what is under way go again
    queue = [];
    waiting.splice(0).forEach(f => f());
  }

  function open(query) {
    signals = query;
    if (gate > 0) return;
    const heard = storage(outKey);
    if (heard) return leaveAlone(), tell(+heard);
    gate = 1;
    since = !d.hidden && performance.now();
    later(50);
    waiting.splice(0).forEach(f => f());
  }

  function leaveAlone() {
    out = 1;
    shut();
  }

  // may reports whether the gate is open still: another tab may have opted out.
  function may() {
    if (gate > 0 && storage(outKey)) leaveAlone();
    return gate > 0;
  }

  // tell says an opt-out to the gateway, or repeats it, since its cookie may be
  // gone: heard is 1 once the gateway has answered. What is stored tells the two
  // apart and nothing else, for it goes out with each page.
  function tell(heard, cb) {
    ask("/v1/optout", 1e4, heard ? '{"again":true}' : "{}").then(x => {
      if (x.opted_out) storage(outKey, 1);
      // The person has opted in since, on the gateway's own page, and not out again meanwhile.
      else if (x.opted_out == 0 && storage(outKey) > 0) {
        storage(outKey, null);
        out = gate = 0;
        view();
        decide();
      }
      if (cb) cb(x);
    });
  }

  // refused is what to do when an answer says that nothing is kept of this
  // browser. Only a person's own opt-out is remembered.
  function refused(x) {
    if (x.by !== "cookie") return shut();
    storage(outKey, 1);
    leaveAlone();
  }

  // ---- Sending

  let queue = []; // events as JSON, at most 100 and a batch that came back
  let busy; // the events under way, one request at a time: see flush
  let first; // when they were sent first
  let timer, tries = 0;
  let held; // how many of the queue's first go again: alone, so that others have tries of their own

  // ask gives the answer's JSON with its status and Retry-After; no status if
  // there was no answer. Without a body it is a GET. A body of text needs no
  // preflight.
  function ask(path, millis, body) {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), millis);
    return fetch(base + path, { method: body && "POST", body, credentials: "include", keepalive: body, signal: stop.signal })
      .then(r => r.json().catch(() => ({})).then(x => ((x.status = r.status), (x.wait = r.headers.get("Retry-After")), x)))
      .catch(() => ({}));
  }

  // batch takes up to 20 events from the queue: keepalive and sendBeacon carry
  // 64 KiB, and a node remembers the ids of the last 32 events.
  const batch = () => {
    let i = 0, chars = 0;
    while (i < (held || 20) && i < queue.length && (chars += queue[i].length) <= 2e4) i++;
    held = 0;
    return queue.splice(0, i);
  };

  const bodyOf = list => '{"client":' + JSON.stringify(data.client) + ',"events":[' + list + "]}";
  const eventsURL = () => "/v1/events?" + signals;

  function later(millis) {
    if (gate > 0 && !busy && !timer && queue.length) timer = setTimeout(flush, millis);
  }

  // flush sends what is queued, one request at a time: before the first answer
  // there is no cookie, and each request without one would make a new browser.
  function flush() {
    timer = 0;
    if (!may() || !queue.length) return;
    if (!held) first = Date.now();
    const sent = busy = batch();
    // A page that goes away fails its requests or breaks their answers off, though
    // they arrive: what failed is not back in the queue before the page is gone.
    ask(eventsURL(), 1e4, bodyOf(sent)).then(x => x.refused ? x : new Promise(done => setTimeout(done, 1e3, x))).then(x => {
      busy = 0;
      may();
      if (x.by) return refused(x);
      // What was under way at the opt-out may have made a browser: its cookie is there now.
      if (out) tell(0);
      if (x.new) renew(); // who was known was erased elsewhere
      let again = [];
      if (x.refused) x.refused.forEach(r => r.code === "unavailable" ? again.push(sent[r.index]) : warn("refused: " + r.message));
      // Else nothing was taken, also where a 200 is not the gateway's.
      else if (!/^4(?!29)/.test(x.status)) again = sent;
      else if (x.error) warn(x.error.message);
      held = first && again.length; // else consent was withdrawn meanwhile
      if (!held) tries = 0;
      // Nodes remember an id for ten minutes: after a sleep it might count twice.
      else if (++tries > 5 || Date.now() - first > 5e5) {
        warn("lost: " + held);
        tries = held = 0;
      } else queue.unshift(...again);
      // Jitter only lengthens: Retry-After is the least.
      later(tries ? Math.max(500 << tries, x.wait * 1e3 || 0) * (1 + Math.random() / 2) : 50);
    });
  }

  // leave sends what is left when the page goes away or out of sight: now, since
  // there may be no later.
  function leave(e) {
    if (e.type === "pagehide") hosts();
    else if (!d.hidden) return since = gate > 0 && performance.now();
    stay();
    tries = 0; // what was sent before goes by other means
    while (queue.length && may()) {
      const sent = batch();
      // Some browsers have no beacons: of either kind no answer is heard.
      if (!(n.sendBeacon ? n.sendBeacon(base + eventsURL(), bodyOf(sent)) : ask(eventsURL(), 1e4, bodyOf(sent)))) return queue.unshift(...sent);
    }
  }

  // ---- Events

  // Fragments and queries often hold what must not be stored.
  const clean = url => url.split(/[?#]/)[0].slice(0, 2048);
  let here = clean(location.href), ref = clean(d.referrer);
  // What may be search terms, under the names of search engines. The gateway keeps
  // them of search engines only.
  let query = d.referrer.match(/[?&](q|p|query|text)=[^&#]*/) || [];

  function put(event) {
    if (gate < 0) return;
    // A retry has the same id and counts once.
    const text = JSON.stringify(Object.assign({ url: clean(location.href), ref, ref_query: query[0], id: "" + Math.random() }, event));
    if (text.length > 2e4 || queue.length >= 100) return warn("not sent: too much");
    queue.push(text);
    later(50);
  }

  function view(props) {
    const no = undefined; // which JSON leaves out
    put({ event: "page", props: props || Object.assign({}, data, { cache: no, client: no, consent: no, vendor: no, spa: no, leaks: no }) });
  }

  // When the page came into sight, if it is and the gate is open; by a clock that
  // nobody sets.
  let since;

  // stay reports for how long the page has been in sight, and begins anew. While a
  // request is under way it may be the first, and another would make a new browser.
  function stay(next) {
    if (since && !busy) put({ event: "kith.leave", url: here, props: { time_on_page: (performance.now() - since) / 1e3 } });
    since = next;
  }

  // watchHistory makes a page view of each change of url within the page.
  function watchHistory() {
    const soon = () => setTimeout(() => {
      const url = clean(location.href);
      if (url === here) return;
      stay(since && performance.now());
      ref = here;
      query = [];
      here = url;
      view();
    });
    ["pushState", "replaceState"].forEach(k => {
      const f = history[k];
      history[k] = function (...args) {
        soon();
        return f.apply(this, args);
      };
    });
    w.addEventListener("popstate", soon);
  }

  // hosts reports which other hosts the page has loaded from, once.
  let hostsTold = data.leaks === undefined;
  function hosts() {
    if (hostsTold) return;
    hostsTold = 1;
    const home = location.hostname.replace(/^www\./, "");
    const within = (a, b) => ("." + a).endsWith("." + b);
    const hostOf = url => new URL(url).hostname;
    const list = [];
    let left = 0;
    new Set(performance.getEntriesByType("resource").map(e => hostOf(e.name))).forEach(h => {
      if (!h || within(h, home) || within(home, h) || h === hostOf(base)) return;
      if (list.length > 49 || (list + h).length > 1023) left++;
      else list.push(h);
    });
    if (list.length) put({ event: "kith.hosts", props: { hosts: list.join(" "), left } });
  }

  // ---- Segments

  const waiting = []; // calls, until the gate opens or shuts
  let asked; // the answer under way
  let age = 0; // counts what makes answers under way old

  // renew takes away what was told of who this browser was.
  function renew() {
    age++;
    asked = 0;
    storage(segmentsKey, null);
  }

  function kept(seconds) {
    try {
      const x = JSON.parse(storage(segmentsKey));
      const old = Date.now() - x.t;
      if (x.v === 1 && x.c === data.client && old >= 0 && old < seconds * 1e3) return x.s;
    } catch (e) {}
  }

  function fetchSegments() {
    const born = age;
    // What is asked before the gateway knows of an identify is soon wrong.
    const early = /"identify"/.test(queue + busy);
    return ask("/v1/me/segments?client=" + encodeURIComponent(data.client) + "&" + signals, 3e3).then(x => {
      if (born === age) asked = 0;
      if (x.by) refused(x);
      const list = may() && x.segments || []; // another tab may have opted out meanwhile
      // An empty list is not kept: it is a newcomer's, and soon wrong.
      if (born === age && !early && list.length) storage(segmentsKey, JSON.stringify({ v: 1, c: data.client, t: Date.now(), s: list }));
      return list;
    });
  }

  // Hexadecimal of 16 to 64 bytes, base64url of 32, 48 or 64.
  const digest = /^([\da-fA-F]{8}){4,16}$|^(?=.*[a-z])(?=.*[A-Z])[\w-]{43}([\w-]{21}|[\w-]{43})?$/;

  const does = {
    __proto__: null,
    event: (name, props) => put({ event: name, props }),
    page: view,
    identify(kind, value, proof) {
      if (kind !== "account" || !digest.test(value)) return warn("not sent: no digest");
      renew();
      put({ event: "identify", identities: [kind + ":" + value], proof });
    },
    segments(cb, seconds = data.cache || 300) {
      if (!gate && waiting.length < 100) return waiting.push(() => does.segments(cb, seconds));
      const list = may() ? kept(seconds) : [];
      // cb is called later, so that whatever it does, or is, stays its own affair.
      Promise.resolve(list || (asked = asked || fetchSegments())).then(cb);
    },
    optout(cb) {
      renew();
      storage(outKey, 0);
      leaveAlone();
      tell(0, cb);
    },
    consent(yes) {
      own = !!yes;
      decide();
    }
  };

  // run does a call. One that is wrong throws nothing into the page, and stops
  // none that waits behind it; of what it was called with nothing is told, which
  // may be an address.
  function run(call) {
    try {
      const [name, ...args] = call;
      does[name](...args);
    } catch (e) {
      warn("not sent");
    }
  }

  // ---- Consent

  let own; // what the page itself said, by kith("consent", …)
  let platform; // false: no; a text: yes, with these signals
  let states; // the same by the GPP: where there are both, for who is outside the GDPR
  // found reports whether there is a platform: in a frame, that of a page around it says
  // so by a frame of its own. It is not asked from here: without a function in the frame
  // itself nobody has consented. A page of another origin throws.
  function found(name, p = w) {
    try {
      if (p[name + "Locator"] || w[name]) return 1;
    } catch (e) {}
    return p !== p.parent && found(name, p.parent);
  }
  const mode = data.consent || (found("__tcfapi") && "tcf" || found("__gpp") && "gpp" || "none");
  const both = !data.consent && mode === "tcf" && found("__gpp");
  let draining = true;

  function decide() {
    if (draining || out) return;
    const yes = mode === "wait" ? own && "" : mode === "none" ? "" : both && platform === "gdpr=0" ? states && platform + "&" + states : platform;
    // A no to all else is none to the person's own opt-out that was not heard yet.
    if (silent || own === false || yes === false) storage(outKey) == 0 ? does.optout() : shut();
    else if (yes !== undefined) open(yes);
  }

  function refuse(why) {
    warn("not sent: no " + why);
    platform = false;
    decide();
  }

  // listen asks a consent platform's function to be told, and waits for it half a minute.
  function listen(name, left, ...args) {
    if (w[name]) w[name]("addEventListener", ...args);
    else if (left) setTimeout(listen, 250, name, left - 1, ...args);
    else refuse(name);
  }

  // IAB Europe's Transparency and Consent Framework. Purposes: 1 storage, 3
  // profiles, 4 advertising by them; the gateway asks for the same.
  function tcf() {
    listen("__tcfapi", 120, 2, (x, ok) => {
      if (!ok || !/^(t|us)/.test(x.eventStatus)) return; // tcloaded, useractioncomplete
      if (x.gdprApplies === false) platform = "gdpr=0";
      else if ([1, 3, 4].every(p => x.purpose.consents[p]) && (!data.vendor || x.vendor.consents[data.vendor])) platform = "gdpr=1&gdpr_consent=" + encodeURIComponent(x.tcString);
      else platform = false;
      decide();
    });
  }

  // IAB Tech Lab's Global Privacy Platform. What is plainly refused ends here; the
  // rest the gateway reads in the string, and says so. What ends with ing is Sharing
  // and TargetedAdvertising. Section 2 is the TCF's; where both are asked and the
  // TCF says that it does not apply, they disagree, and that is a no.
  function gpp() {
    listen("__gpp", 120, x => {
      const p = x.pingData, sections = p.applicableSections;
      if (p.signalStatus !== "ready") return;
      const eu = sections.includes(2);
      if (eu && !both) return tcf();
      states = !eu && !/(Sale|ing)OptOut":1|"Gpc":(1|true)/.test(JSON.stringify(p.parsedSections)) && "gpp=" + encodeURIComponent(p.gppString) + "&gpp_sid=" + sections;
      if (!both) platform = states;
      decide();
    });
  }

  // ---- Start

  function start() {
    const stub = w.kith || {};
    if (stub.v) return; // a second tag: both may have waited for the page to be shown
    w.kith = (...call) => run(call);
    w.kith.v = 2;
    // A page may have kept the function that queues.
    w.kith.q = { push: run };
    view();
    (stub.q || []).forEach(run);
    draining = false;
    decide();
    if (silent) return;
    if (both) gpp();
    if (mode === "tcf") tcf();
    else if (mode === "gpp") gpp();
    else if (mode !== "none" && mode !== "wait") refuse("data-consent");
    if (data.spa !== "off") watchHistory();
    w.addEventListener("pagehide", leave);
    d.addEventListener("visibilitychange", leave);
    if (!hostsTold) {
      const soon = () => setTimeout(hosts, +data.leaks || 5e3);
      if (d.readyState === "complete") soon();
      else w.addEventListener("load", soon);
    }
  }

  // A page that is only prepared has not been seen.
  if (d.prerendering) d.addEventListener("prerenderingchange", start);
  else start();
})(window, document, navigator);
