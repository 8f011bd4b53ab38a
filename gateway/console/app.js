// Sign-in, the frame around the views, and which view is shown.
import { h, icon, mark, replace, failed } from "./dom.js";
import { session, signIn, signOut, keptKey, pickClient, isAdmin, mayRead, get } from "./api.js";
import { overview } from "./overview.js";
import { live } from "./live.js";
import { segments } from "./segments.js";
import { overlap } from "./overlap.js";
import { counts } from "./counts.js";
import { user } from "./user.js";
import { explain } from "./explain.js";
import { receipts } from "./receipts.js";
import { leakage } from "./leakage.js";
import { letters } from "./letters.js";
import { cluster } from "./cluster.js";
import { partitions } from "./partitions.js";

const views = [
  { path: "overview", title: "Overview", icon: "overview", view: overview, group: "Activity", may: () => true },
  { path: "live", title: "Live events", icon: "live", view: live, group: "Activity", may: mayRead, ofClient: true },
  { path: "segments", title: "Segments", icon: "segments", view: segments, group: "Audiences", may: mayRead, ofClient: true },
  { path: "overlap", title: "Overlap", icon: "overlap", view: overlap, group: "Audiences", may: mayRead, ofClient: true },
  { path: "count", title: "Count", icon: "count", view: counts, group: "Audiences", may: () => true, ofClient: true },
  { path: "user", title: "User graph", icon: "user", view: user, group: "People", may: mayRead, ofClient: true },
  { path: "explain", title: "Explain", icon: "explain", view: explain, group: "People", may: mayRead, ofClient: true },
  { path: "receipts", title: "Receipts", icon: "receipts", view: receipts, group: "People", may: mayRead },
  { path: "leakage", title: "Leakage", icon: "leakage", view: leakage, group: "Operations", may: mayRead, ofClient: true },
  { path: "cluster", title: "Cluster", icon: "cluster", view: cluster, group: "Operations", may: () => isAdmin() && session.cluster },
  { path: "partitions", title: "Partitions", icon: "partitions", view: partitions, group: "Operations", may: isAdmin },
  { path: "letters", title: "Dead letters", icon: "letters", view: letters, group: "Operations", may: isAdmin },
];

const app = document.getElementById("app");
let leaving = null; // ends what the shown view does
let frame = null;

// Theme.

const themes = ["system", "light", "dark"];

function themeNow() {
  return document.documentElement.dataset.theme || "system";
}

function themeButton() {
  const faces = { system: "system", light: "sun", dark: "moon" };
  const b = h("button", { type: "button", class: "ghost", id: "theme" });
  const paint = () => {
    const t = themeNow();
    replace(b, icon(faces[t]), h("span", {}, "Theme: " + t));
  };
  b.addEventListener("click", () => {
    const next = themes[(themes.indexOf(themeNow()) + 1) % themes.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try { next === "system" ? localStorage.removeItem("kith-theme") : localStorage.setItem("kith-theme", next); } catch { /* not kept */ }
    paint();
  });
  paint();
  return b;
}

// Sign-in.

function signInPage(message) {
  leave();
  frame = null;
  document.title = "Sign in · kith";
  const input = h("input", { type: "password", id: "key", name: "key", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-help key-error" });
  const error = h("p", { class: "field-error", id: "key-error", role: "alert" }, message || "");
  const button = h("button", { type: "submit", class: "primary wide" }, "Sign in");
  const form = h("form", { class: "card sign-in", novalidate: true }, h("div", { class: "brand" }, mark(), h("span", {}, "kith")), h("h1", {}, "Sign in to this node"),
    h("label", { class: "field", for: "key" }, h("span", {}, "Service key"), input, h("small", { id: "key-help" }, "An admin, client or report key. It stays in this tab, and is forgotten when the tab closes.")), error, button);
  form.addEventListener("submit", async (e) => {
    e.preventDefault();
    const key = input.value.trim();
    error.textContent = "";
    if (!key) {
      error.textContent = "Paste a key. An operator makes one with: kith key create";
      input.focus();
      return;
    }
    // A header takes no others; they come along where a key is copied from a text.
    if (/[^ -~]/.test(key)) {
      error.textContent = "That holds a sign that no key has, such as a typographic quotation mark or one that is not seen. Paste the key alone.";
      input.setAttribute("aria-invalid", "true");
      input.select();
      return;
    }
    button.disabled = true;
    button.textContent = "Signing in…";
    try {
      await signIn(key);
      await frameFor();
      return;
    } catch (err) {
      signOut();
      error.textContent = err.code === "unauthorized" ? "This node does not know that key. Check that it is whole and for this node." : err.message;
      input.setAttribute("aria-invalid", "true");
      input.select();
    }
    button.disabled = false;
    button.textContent = "Sign in";
  });
  replace(app, h("main", { class: "sign-in-page" }, form, h("div", { class: "sign-in-foot" }, themeButton())));
  input.focus();
}

function leaveSession(message) {
  signOut();
  signInPage(message);
}

document.addEventListener("kith-signed-out", () => leaveSession("This key is not known any more. Sign in with another one."));

// The frame.

async function clientPicker() {
  if (!isAdmin()) return h("div", { class: "client" }, h("span", { class: "quiet" }, session.role === "report" ? "Report key of" : "Client"), h("strong", {}, session.client));
  const { clients } = await get("/v1/clients", { whole: true });
  if (!clients.some((c) => c.name === session.client)) pickClient(clients.length ? clients[0].name : "");
  const select = h("select", { id: "client" }, clients.map((c) => h("option", { value: c.name, selected: c.name === session.client }, c.name)));
  select.addEventListener("change", () => { pickClient(select.value); route(); });
  return h("label", { class: "client", for: "client" }, h("span", { class: "quiet" }, "Client"), clients.length ? select : h("strong", {}, "none yet"));
}

async function frameFor() {
  const picker = await clientPicker();
  const open = views.filter((v) => v.may());
  const groups = [...new Set(open.map((v) => v.group))];
  const nav = h("nav", { id: "nav", "aria-label": "Views" }, groups.map((g) => h("div", { class: "nav-group" }, h("h2", {}, g), open.filter((v) => v.group === g).map((v) => h("a", { href: "#/" + v.path, "data-view": v.path }, icon(v.icon), v.title)))));
  const menu = h("button", { type: "button", class: "ghost menu", "aria-controls": "side", "aria-expanded": "false", "aria-label": "Menu" }, icon("menu"));
  const side = h("div", { class: "side", id: "side" }, picker, nav,
    h("div", { class: "side-foot" }, h("div", { class: "quiet" }, session.role + " key", session.version && " · " + session.version), themeButton(), h("button", { type: "button", class: "ghost", id: "sign-out", onclick: () => leaveSession("") }, icon("out"), h("span", {}, "Sign out"))));
  const toggle = (on) => { frame.root.classList.toggle("open", on); menu.setAttribute("aria-expanded", String(on)); };
  menu.addEventListener("click", () => toggle(!frame.root.classList.contains("open")));
  const main = h("main", { id: "main", tabindex: -1 });
  const root = h("div", { class: "frame" }, h("a", { class: "skip", href: "#main", onclick: (e) => { e.preventDefault(); main.focus(); } }, "Skip to the content"),
    h("header", { class: "top" }, h("a", { class: "brand", href: "#/overview" }, mark(), h("span", {}, "kith")), menu), side, main);
  frame = { root, main, nav, toggle };
  replace(app, root);
  if (!location.hash.startsWith("#/")) history.replaceState(null, "", "#/overview");
  route();
}

function leave() {
  if (leaving) leaving.abort();
  leaving = null;
  // A question of the view that is left must not be answered over another one.
  for (const d of document.querySelectorAll("dialog[open]")) d.close("no");
}

/** unescaped is a part of the address; one typed by hand may hold a % that escapes nothing, and is meant as it is. */
function unescaped(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** route shows the view that the address names: #/VIEW/REST?QUERY. */
function route() {
  if (!frame) return;
  leave();
  leaving = new AbortController();
  frame.toggle(false);
  const [path, query] = location.hash.slice(2).split("?");
  const [name, ...rest] = path.split("/").map(unescaped);
  const v = views.find((x) => x.path === name && x.may());
  frame.nav.querySelectorAll("a").forEach((a) => (a.dataset.view === name ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current")));
  document.title = (v ? v.title : "Not found") + " · kith";
  const heading = h("h1", { tabindex: -1 }, v ? v.title : "No such view");
  const lead = h("p", { class: "lead" }), tools = h("div", { class: "tools" }), body = h("div", { class: "body" });
  replace(frame.main, h("div", { class: "page-head" }, h("div", {}, heading, lead), tools), body);
  heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  if (!v) {
    lead.textContent = "It is not there, or not with this key. The views that are stand in the menu.";
    return;
  }
  if (v.ofClient && isAdmin() && !session.client) {
    replace(body, h("div", { class: "state empty" }, h("h3", {}, "There is no client yet"), h("p", {}, "Make one with its first key: kith key create --client NAME")));
    return;
  }
  const page = { body, tools, heading, signal: leaving.signal, rest, query: new URLSearchParams(query || ""), lead: (t) => { lead.textContent = t; } };
  try {
    v.view(page);
  } catch (err) {
    replace(body, failed(err, route));
  }
}

addEventListener("hashchange", route);
addEventListener("keydown", (e) => { if (e.key === "Escape" && frame) frame.toggle(false); });

async function begin() {
  const key = keptKey();
  if (!key) return signInPage("");
  try {
    await signIn(key);
    await frameFor();
  } catch (err) {
    err.status === 401 ? leaveSession("This key is not known any more. Sign in with another one.") : signInPage(err.message);
  }
}

begin();
