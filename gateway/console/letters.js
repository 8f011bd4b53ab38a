// Commands that were set aside because a step failed.
import { h, replace, show, table, number, stamp, toast, empty, confirmed } from "./dom.js";
import { get, ask, id } from "./api.js";

const MOST = 1000; // that one listing gives

export function letters(page) {
  page.lead("Commands that an identity could not take, set aside so that the lane goes on.");
  const load = () => show(page.body, "dead letters", page.signal, async () => {
    const { deadletters } = await get("/v1/deadletters?limit=" + MOST, { whole: true, signal: page.signal });
    if (!deadletters.length) return empty("No dead letters", "Every command was taken in.");
    return [deadletters.length === MOST && h("p", { class: "quiet" }, `The oldest ${number(MOST)} are shown. Others may come up once these are replayed.`), h("div", { class: "panel flush" }, table("Dead letters, oldest first", [["Id"], ["Time"], ["Lane", "num"], ["Reason"], [""]], deadletters.map((d) => [h("code", {}, d.id), h("span", { class: "nowrap" }, stamp(d.time)), d.lane, d.reason,
      d.replayed ? h("span", { class: "chip good" }, "replayed") : h("button", { type: "button", class: "small", onclick: () => replay(d.id) }, "Replay")])))];
  });
  const replay = async (name) => {
    if (!await confirmed({ title: "Replay this command?", text: `${name} is submitted again. Do it once what made it fail is mended.`, action: "Replay", danger: false })) return;
    try {
      await ask("POST", `/v1/deadletters/${id(name)}/replay`, { whole: true });
      toast(name + " was submitted again.");
    } catch (err) { toast(err.message, "bad"); }
    load();
  };
  replace(page.tools, h("button", { type: "button", onclick: load }, "Refresh"));
  load();
}
