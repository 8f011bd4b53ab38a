// The session and the service plane. The key is kept in sessionStorage only, and
// goes out in the Authorization header only.

const KEY = "kith-key", CLIENT = "kith-client";

export const session = { key: "", role: "", client: "", floor: 0, cluster: false, version: "" };

/** Failure is an answer that is no success, in the words of the API. */
export class Failure extends Error {
  constructor(status, body) {
    const e = (body && body.error) || {};
    super(e.message || "The node did not answer. Is it running, and is this page from it?");
    this.status = status;
    this.code = e.code || "unreachable";
    this.line = e.line || 0;
    this.column = e.column || 0;
  }
}

export const isAdmin = () => session.role === "admin";
export const mayRead = () => session.role === "admin" || session.role === "client";

/** withClient adds the client that an admin key speaks for. */
function withClient(path) {
  if (!isAdmin() || !session.client) return path;
  return path + (path.includes("?") ? "&" : "?") + "client=" + encodeURIComponent(session.client);
}

/**
 * ask sends one request and gives the JSON of the answer; whole: as it is, for
 * routes that are of the node and not of a client.
 */
export async function ask(method, path, { body, whole = false, signal } = {}) {
  let response;
  try {
    response = await fetch(whole ? path : withClient(path), {
      method, signal, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer",
      headers: { Authorization: "Bearer " + session.key, "X-Kith-Operator": "1", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Failure(0, null);
  }
  let answer = null;
  const text = await response.text();
  try { answer = JSON.parse(text); } catch { /* told below */ }
  if (!response.ok) {
    if (response.status === 401 && session.role) document.dispatchEvent(new CustomEvent("kith-signed-out"));
    throw new Failure(response.status, answer);
  }
  return answer ?? text;
}

export const get = (path, options) => ask("GET", path, options);
export const id = encodeURIComponent;

/** metrics reads /metrics: name to the sum over all labels, and to each sample. */
export async function metrics(signal) {
  const text = await ask("GET", "/metrics", { whole: true, signal });
  const sums = new Map();
  for (const line of String(text).split("\n")) {
    if (!line || line[0] === "#") continue;
    const m = /^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)/.exec(line);
    if (m) sums.set(m[1], (sums.get(m[1]) || 0) + Number(m[2]));
  }
  return sums;
}

/** events reads a stream of server-sent events until signal ends it. */
export async function events(path, signal, on) {
  let response;
  try {
    response = await fetch(withClient(path), { signal, cache: "no-store", credentials: "omit", headers: { Authorization: "Bearer " + session.key } });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Failure(0, null);
  }
  if (!response.ok) throw new Failure(response.status, await response.json().catch(() => null));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((e) => { throw e.name === "AbortError" ? e : new Failure(0, null); });
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      let kind = "message", data = "";
      for (const line of rest.slice(0, end).split("\n")) {
        if (line.startsWith("event: ")) kind = line.slice(7);
        if (line.startsWith("data: ")) data += line.slice(6);
      }
      on(kind, JSON.parse(data));
    }
  }
}

/** signIn asks what a key is for and keeps it for this tab. */
export async function signIn(key) {
  session.key = key;
  session.role = "";
  const about = await ask("GET", "/v1/key", { whole: true });
  Object.assign(session, { role: about.role, client: about.client || "", floor: about.floor || 0, cluster: about.cluster, version: about.version || "" });
  if (isAdmin()) session.client = stored(CLIENT);
  store(KEY, key);
}

export function signOut() {
  Object.assign(session, { key: "", role: "", client: "", floor: 0 });
  store(KEY, "");
  store(CLIENT, "");
}

export function pickClient(name) {
  session.client = name;
  store(CLIENT, name);
}

export const keptKey = () => stored(KEY);

function stored(name) {
  try { return sessionStorage.getItem(name) || ""; } catch { return ""; }
}

function store(name, value) {
  try { value ? sessionStorage.setItem(name, value) : sessionStorage.removeItem(name); } catch { /* this page only, then */ }
}
