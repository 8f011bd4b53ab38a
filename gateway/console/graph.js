// A user's graph: a force layout of at most 64 members, drawn as SVG.
import { s, stamp, percent, calm } from "./dom.js";

const W = 760, H = 460, MEMBERS = 64;

/** chance is a small generator with a fixed seed: the same user, the same drawing. */
function chance(seed) {
  let x = seed >>> 0 || 1;
  return () => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) / 2 ** 32);
}

/** layout gives members x and y: all repel, edges pull, the middle pulls a little. */
export function layout(members, edges) {
  const rnd = chance([...members.join()].reduce((a, c) => (Math.imul(a, 31) + c.charCodeAt(0)) | 0, 7));
  const at = new Map(members.map((m, i) => [m, { x: Math.cos((i / members.length) * 6.283) * 120 + rnd() * 20, y: Math.sin((i / members.length) * 6.283) * 90 + rnd() * 20, dx: 0, dy: 0 }]));
  const list = [...at.values()], rest = Math.min(150, 60 + 420 / Math.sqrt(members.length + 1));
  const push = members.length > 24 ? 0.3 : 0.1;
  for (let round = 0, heat = 26; round < 320; round++, heat *= 0.985) {
    for (const a of list) a.dx = a.dy = 0;
    for (let i = 0; i < list.length; i++) {
      for (let j = i + 1; j < list.length; j++) {
        const a = list[i], b = list[j];
        let x = a.x - b.x, y = a.y - b.y;
        const d2 = Math.max(x * x + y * y, 25), f = (rest * rest) / d2;
        a.dx += x * f * push; a.dy += y * f * push; b.dx -= x * f * push; b.dy -= y * f * push;
      }
    }
    for (const e of edges) {
      const a = at.get(e.a), b = at.get(e.b);
      if (!a || !b) continue;
      const x = b.x - a.x, y = b.y - a.y, d = Math.hypot(x, y) || 1, f = ((d - rest) / d) * 0.35;
      a.dx += x * f; a.dy += y * f; b.dx -= x * f; b.dy -= y * f;
    }
    for (const a of list) {
      a.dx -= a.x * 0.012; a.dy -= a.y * 0.02;
      const d = Math.hypot(a.dx, a.dy) || 1, step = Math.min(d, heat);
      a.x += (a.dx / d) * step; a.y += (a.dy / d) * step;
    }
  }
  const xs = list.map((a) => a.x), ys = list.map((a) => a.y);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const k = Math.min((W - 220) / Math.max(x1 - x0, 1), (H - 110) / Math.max(y1 - y0, 1), 1.4);
  for (const a of list) {
    a.x = W / 2 + (a.x - (x0 + x1) / 2) * k;
    a.y = H / 2 + (a.y - (y0 + y1) / 2) * k;
  }
  return at;
}

export const clip = (identity, most = 22) => (identity.length > most ? identity.slice(0, most - 5) + "…" + identity.slice(-4) : identity);

const kindOf = (m) => m.slice(0, m.indexOf(":"));

/**
 * draw makes the picture of a user; select(kind, thing) is called for the member or
 * edge that is clicked, or chosen by Enter or Space: not for what has the focus or the
 * pointer, which pass over others on their way. It has .nodes and .edges by name.
 */
export function draw(user, centre, select) {
  const members = user.members.slice(0, MEMBERS), at = layout(members, user.edges);
  const nodes = new Map(), edges = new Map();
  const svg = s("svg", { class: "graph", viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `The user of ${centre}: ${members.length} identities, ${user.edges.length} links` });
  const selectable = (el, kind, thing) => {
    const on = () => {
      svg.querySelectorAll(".picked").forEach((x) => x.classList.remove("picked"));
      el.classList.add("picked");
      select(kind, thing);
    };
    el.addEventListener("click", on);
    el.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" && e.key !== " ") return;
      e.preventDefault();
      on();
    });
  };
  for (const e of user.edges) {
    const a = at.get(e.a), b = at.get(e.b);
    if (!a || !b) continue;
    const line = { x1: a.x, y1: a.y, x2: b.x, y2: b.y };
    const g = s("g", { class: "edge " + e.method, tabindex: 0, role: "button", "aria-label": `Link of ${e.a} and ${e.b}: ${e.method}, confidence ${percent(e.confidence)}, by ${e.client}, ${stamp(e.time)}` },
      s("line", { class: "hit", ...line }), s("line", { class: "stroke", ...line }));
    selectable(g, "edge", e);
    edges.set(edgeName(e), g);
    svg.append(g);
  }
  const crowded = members.length > 24;
  for (const m of members) {
    const p = at.get(m);
    const g = s("g", { class: `${crowded ? "small " : ""}node kind-${kindOf(m).split(".")[0]}${m === user.root ? " root" : ""}${m === centre ? " centre" : ""}`, tabindex: 0, role: "button", "aria-label": m + (m === user.root ? ", the root" : "") },
      s("circle", { cx: p.x, cy: p.y, r: (m === centre ? 17 : 14) * (crowded ? 0.62 : 1) }),
      s("text", { class: "letter", x: p.x, y: p.y + (crowded ? 3 : 4.5), "text-anchor": "middle" }, kindOf(m)[0].toUpperCase()),
      (!crowded || m === centre || m === user.root) && s("text", { class: "name", x: p.x, y: p.y + 32, "text-anchor": "middle" }, clip(m)));
    selectable(g, "member", m);
    nodes.set(m, g);
    svg.append(g);
  }
  return { svg, nodes, edges, at, hidden: user.members.length - members.length };
}

export const edgeName = (e) => (e.a < e.b ? e.a + " " + e.b : e.b + " " + e.a);

const played = (animations) => Promise.all(animations.map((a) => a.finished));

/** vanish lets links snap: each is drawn back to its ends' middle and fades. */
export function vanish(drawing, names) {
  const ms = calm() ? 1 : 700, list = [];
  for (const n of names) {
    const g = drawing.edges.get(n), line = g && g.querySelector(".stroke");
    if (!line) continue;
    g.classList.add("cut");
    const length = line.getTotalLength();
    list.push(line.animate([
      { strokeDasharray: `${length / 2} 0 ${length / 2} 0`, opacity: 1 }, { strokeDasharray: `${length * 0.32} ${length * 0.36} ${length * 0.32} 0`, opacity: 1, offset: 0.35 },
      { strokeDasharray: `0 ${length} 0 0`, opacity: 0 }], { duration: ms, easing: "ease-in", fill: "forwards" }));
  }
  return played(list);
}

/** depart lets a member drift off and fade once its links are gone. */
export function depart(drawing, member) {
  const g = drawing.nodes.get(member), p = drawing.at.get(member);
  if (!g) return Promise.resolve();
  g.classList.add("gone");
  const d = Math.hypot(p.x - W / 2, p.y - H / 2) || 1;
  const x = ((p.x - W / 2) / d) * 60 || 0, y = ((p.y - H / 2) / d) * 60 || -60;
  return played([g.animate([{ transform: "none", opacity: 1 }, { transform: `translate(${x}px, ${y}px)`, opacity: 0 }], { duration: calm() ? 1 : 600, easing: "ease-out", fill: "forwards" })]);
}
