// Charts as SVG, drawn to a fixed coordinate box and scaled by the page.
import { s, h, compact, number, day, signed } from "./dom.js";

/** wide is the coordinate box that keeps texts legible in the window. */
const wide = () => (innerWidth < 700 ? 420 : 980);

/** steps are three or four round values from 0 (or near least) to beyond most. */
function steps(least, most) {
  const room = Math.max(most - least, 1);
  const raw = room / 3, unit = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(1, [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= raw));
  const from = Math.floor(least / step) * step;
  const list = [];
  for (let v = from; list.length < 6; v += step) {
    list.push(v);
    if (v >= most) break;
  }
  return list;
}

/**
 * lineChart draws sizes by day: points {day, value|null, soFar}. Days without a
 * value are gaps. Each point can be focused and says its value.
 */
export function lineChart(title, points) {
  const W = wide(), H = 250, L = 52, R = 16, T = 14, B = 28;
  const known = points.filter((p) => p.value !== null);
  const values = known.map((p) => p.value);
  const most = Math.max(...values, 1), low = Math.min(...values, most);
  const marks = steps(known.length > 2 && low > most * 0.5 ? low : 0, most);
  const y0 = marks[0], y1 = marks[marks.length - 1];
  const x = (i) => L + (points.length < 2 ? 0.5 : i / (points.length - 1)) * (W - L - R);
  const y = (v) => T + (1 - (v - y0) / Math.max(y1 - y0, 1)) * (H - T - B);
  const runs = [];
  points.forEach((p, i) => {
    if (p.value === null) return;
    if (!i || points[i - 1].value === null) runs.push([]);
    runs[runs.length - 1].push([x(i), y(p.value)]);
  });
  const path = (r) => r.map(([a, b], i) => (i ? "L" : "M") + a.toFixed(1) + " " + b.toFixed(1)).join("");
  const every = Math.max(1, Math.ceil((points.length * 90) / W));
  // Points that touch would hide their line: they show where there is none, and in use.
  const gap = (i) => !points[i] || points[i].value === null;
  const kind = (p, i) => "point" + (p.soFar ? " open" : points.length * 12 > W && !(gap(i - 1) && gap(i + 1)) ? " faint" : "");
  const says = h("output", { class: "chart-says", "aria-live": "polite" }, "\u00a0");
  const say = (p) => () => { says.textContent = `${day(p.day)}${p.soFar ? " so far" : ""}: ${number(p.value)}`; };
  return h("figure", { class: "chart" },
    s("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": title },
      marks.map((v) => [s("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }), s("text", { class: "axis", x: L - 8, y: y(v) + 4, "text-anchor": "end" }, compact(v))]),
      points.map((p, i) => (points.length - 1 - i) % every === 0 && s("text", { class: "axis", x: x(i), y: H - 8, "text-anchor": i === points.length - 1 && points.length > 1 ? "end" : "middle" }, day(p.day))),
      runs.map((r) => r.length > 1 && s("path", { class: "area", d: `${path(r)}L${r[r.length - 1][0]} ${y(y0)}L${r[0][0]} ${y(y0)}Z` })),
      runs.map((r) => s("path", { class: "line", d: path(r) })),
      points.map((p, i) => p.value !== null && s("circle", { class: kind(p, i), cx: x(i), cy: y(p.value), r: 4, tabindex: 0, role: "img", "aria-label": `${day(p.day)}: ${number(p.value)}`, onfocus: say(p), onpointerenter: say(p) }))),
    h("figcaption", {}, says));
}

/** bars draws one bar a day, below the line where negative. */
export function bars(title, points, { width = wide(), height = 150, sign = false } = {}) {
  const W = width, H = height, L = 52, R = 16, T = 10, B = 26;
  const values = points.map((p) => p.value ?? 0);
  const most = Math.max(...values, 1), least = sign ? Math.min(...values, 0) : 0;
  const y = (v) => T + (1 - (v - least) / (most - least || 1)) * (H - T - B);
  const w = (W - L - R) / Math.max(points.length, 1);
  const every = Math.max(1, Math.ceil((points.length * 90) / W));
  const says = h("output", { class: "chart-says", "aria-live": "polite" }, "\u00a0");
  const text = (p) => `${day(p.day)}: ${p.value === null ? (sign ? "not known, or hidden by the floor" : "hidden by the floor") : sign ? signed(p.value) : number(p.value)}`;
  const say = (p) => () => { says.textContent = text(p); };
  return h("figure", { class: "chart" },
    s("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": title },
      [...new Set([most, 0, least])].map((v) => [s("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }), s("text", { class: "axis", x: L - 8, y: y(v) + 4, "text-anchor": "end" }, sign && v ? signed(v) : compact(v))]),
      points.map((p, i) => {
        const v = p.value ?? 0, top = Math.min(y(v), y(0));
        return [s("rect", { class: "bar" + (v < 0 ? " down" : "") + (p.value === null ? " none" : ""), x: L + i * w + w * 0.15, y: p.value === null ? y(0) - 3 : top, width: Math.min(w * 0.7, 44), height: p.value === null ? 3 : Math.max(Math.abs(y(v) - y(0)), v ? 1.5 : 0), rx: 2, tabindex: 0, role: "img", "aria-label": text(p), onfocus: say(p), onpointerenter: say(p) }),
          (points.length - 1 - i) % every === 0 && s("text", { class: "axis", x: L + i * w + w * 0.15 + Math.min(w * 0.7, 44) / 2, y: H - 6, "text-anchor": "middle" }, day(p.day))];
      })),
    h("figcaption", {}, says));
}

/** sparkline is a small line of numbers, nulls left out; a picture only. */
export function sparkline(values, w = 120, ht = 28) {
  const list = values.filter((v) => v !== null);
  const svg = s("svg", { class: "spark", viewBox: `0 0 ${w} ${ht}`, width: w, height: ht, "aria-hidden": "true" });
  if (list.length < 2) return svg;
  const most = Math.max(...list), least = Math.min(...list, most * 0.8);
  const at = list.map((v, i) => [(i / (list.length - 1)) * (w - 4) + 2, 3 + (1 - (v - least) / (most - least || 1)) * (ht - 6)]);
  const d = at.map(([a, b], i) => (i ? "L" : "M") + a.toFixed(1) + " " + b.toFixed(1)).join("");
  svg.append(s("path", { class: "area", d: `${d}L${w - 2} ${ht}L2 ${ht}Z` }), s("path", { class: "line", d }));
  return svg;
}
