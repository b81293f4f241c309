// The audit log, the latest entry first.

import { get } from "./api.js";
import { button, fill, h, keepingFocus, table } from "./dom.js";
import { moment, words } from "./format.js";

const PAGE = 50;

export class Audit {
  title = "Audit log";
  entries = [];

  constructor() {
    this.list = h("div", { class: "list" });
    this.root = this.list;
  }

  async refresh() {
    this.entries = [];
    await this.more();
  }

  async more() {
    const before = this.entries.at(-1)?.id;
    const page = await get("audit", { limit: PAGE, before });
    this.entries.push(...page);
    const more = page.length === PAGE && button("Show older", () => this.more(), { name: "older" });
    keepingFocus(this.list, () => fill(this.list, table("Audit log", [
      { title: "Time", cell: ({ at }) => moment(at) },
      { title: "Action", cell: ({ action }) => words(action) },
      { title: "Subject", cell: ({ subject }) => subject === null ? "" : `id ${subject}` },
      { title: "By", cell: ({ actor, ip }) => [actor, h("small", {}, ip)] },
      { title: "Details", cell: ({ details }) => this.details(details) },
    ], this.entries, "No changes yet."), more));
  }

  details(details) {
    const shown = Object.entries(details ?? {}).map(([name, value]) => [name, this.text(value)]);
    return h("ul", { class: "details" }, shown.filter(([, text]) => text !== "").map(([name, text]) =>
      h("li", {}, `${words(name)}: `, h("code", {}, text))));
  }

  text(value) {
    if (value === null) return "";
    if (Array.isArray(value)) return value.map((item) => this.text(item)).join(", ");
    return typeof value === "string" ? value : JSON.stringify(value);
  }
}
