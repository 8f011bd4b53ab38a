// The editor of a rule: a text area over a coloured copy of its text, with the
// error marked where the node says it is.
import { h, replace, icon } from "./dom.js";

const words = /("(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|\b(count|days|first|last|sum|min|max|distinct|sequence|devices|trait|member)(?=\s*\()|\b(event|now|true|false|in)\b|\b(\d+(?:\.\d+)?)\b/g;

function coloured(text) {
  const out = [];
  let from = 0;
  for (const m of text.matchAll(words)) {
    out.push(text.slice(from, m.index), h("span", { class: m[1] ? "tok-text" : m[2] ? "tok-call" : m[3] ? "tok-name" : "tok-number" }, m[0]));
    from = m.index + m[0].length;
  }
  out.push(text.slice(from));
  return out;
}

/** place is the span in text, by UTF-16 units, that begins at a line and column of the API. */
export function place(text, line, column) {
  const lines = text.split("\n");
  const n = Math.min(Math.max(line, 1), lines.length);
  const before = lines.slice(0, n - 1).reduce((a, l) => a + l.length + 1, 0);
  const runes = Array.from(lines[n - 1]);
  const from = before + runes.slice(0, column - 1).join("").length;
  const word = /^(?:[\w.]+|"[^"\n]*"?|[^\s\w]+)/.exec(text.slice(from));
  return [from, Math.min(from + (word ? word[0].length : 1), Math.max(text.length, from + 1))];
}

export function editor(text, placeholder) {
  const area = h("textarea", { id: "rule", rows: 6, spellcheck: "false", autocomplete: "off", autocapitalize: "off", placeholder, "aria-label": "Rule", "aria-describedby": "rule-error", value: text });
  const under = h("pre", { class: "under", "aria-hidden": "true" }), gutter = h("pre", { class: "gutter", "aria-hidden": "true" });
  const error = h("div", { class: "rule-error", id: "rule-error", role: "alert" });
  let at = null;

  const paint = () => {
    const v = area.value;
    if (at) {
      const [from, to] = at;
      replace(under, coloured(v.slice(0, from)), h("span", { class: "wrong" }, v.slice(from, to) || " "), coloured(v.slice(to)), "\n");
    } else replace(under, coloured(v), "\n");
    const lines = v.split("\n").length;
    gutter.textContent = Array.from({ length: Math.max(lines, 6) }, (_, i) => (i < lines ? i + 1 : "")).join("\n");
    area.style.height = "auto";
    area.style.height = Math.max(lines, 6) * 22 + 24 + "px";
  };
  const clear = () => {
    at = null;
    area.removeAttribute("aria-invalid");
    replace(error);
    paint();
  };
  area.addEventListener("input", clear);
  area.addEventListener("scroll", () => { under.scrollLeft = area.scrollLeft; under.scrollTop = area.scrollTop; });

  const mark = (err) => {
    at = place(area.value, err.line, err.column);
    area.setAttribute("aria-invalid", "true");
    const better = /did you mean ([\w.]+)\?/.exec(err.message);
    const jump = () => { area.focus(); area.setSelectionRange(at[0], at[1]); };
    replace(error, icon("cross"), h("div", {}, h("button", { type: "button", class: "link", onclick: jump }, `Line ${err.line}, column ${err.column}`), ": ", err.message,
      better && h("button", { type: "button", class: "small", onclick: () => { area.setRangeText(better[1], at[0], at[1], "end"); clear(); area.focus(); } }, "Use ", h("code", {}, better[1]))));
    paint();
    jump();
  };
  paint();
  return { el: h("div", { class: "rule" }, h("div", { class: "editor" }, gutter, h("div", { class: "over" }, under, area)), error), text: () => area.value, mark, clear };
}
