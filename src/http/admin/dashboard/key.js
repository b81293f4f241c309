// One key: its limits and what remains of them, and its usage.

import { get, post, remove } from "./api.js";
import { OutcomeChart } from "./chart.js";
import { ask, confirm } from "./dialog.js";
import { announce, button, choice, fill, h, keepingFocus, panel, partBar, table } from "./dom.js";
import { number, percent, seconds, time, words } from "./format.js";
import { edit, rotate, statusBadge } from "./keys.js";
import { outcomes, RANGE_CHOICES, RANGES, startOf } from "./usage.js";

export class KeyDetails {
  range = "24h";

  constructor(id) {
    this.id = id;
    this.title = `Key ${id}`;
    this.actions = h("div", { class: "tools" });
    this.facts = h("dl", { class: "facts" });
    this.limits = h("div");
    this.chart = new OutcomeChart();
    this.paths = h("div");
    this.reasons = h("div");
    const range = choice("Time ", RANGE_CHOICES, this.range, (range) => { this.range = range; return this.onchange(); });
    this.root = h("div", {},
      h("p", {}, h("a", { href: "#keys" }, "All keys")),
      this.actions,
      h("section", { class: "panel" }, h("h2", { class: "hidden" }, "Properties"), this.facts),
      panel("Limits", this.limits),
      h("section", { class: "panel" }, h("div", { class: "heading" }, h("h2", {}, "Requests"), range), this.chart.root),
      h("div", { class: "columns" }, panel("Paths", this.paths), panel("Refusals by reason", this.reasons)));
  }

  get interval() {
    return RANGES[this.range].interval;
  }

  close() {
    this.chart.close();
  }

  async refresh() {
    const { range, id } = this;
    const [key, limits] = await Promise.all([get(`keys/${id}`), get(`keys/${id}/limits`)]);
    this.title = key.label;
    keepingFocus(this.root, () => {
      this.showActions(key);
      this.showFacts(key);
      this.showLimits(limits);
    });
    const since = new Date(startOf(range) * 1_000).toISOString();
    const [counts, paths, reasons] = await Promise.all([
      outcomes(range, { key: id }),
      get("usage", { by: "path", key: id, since, limit: 10 }),
      get("usage", { by: "reason", key: id, refused: true, since }),
    ]);
    if (range !== this.range) return;
    this.showUsage(paths, reasons);
    this.chart.show(range, counts);
  }

  showActions(key) {
    const changing = (action) => async () => { if (await action()) await this.onchange(); };
    const all = [
      button("Change", changing(() => edit(key)), { name: "change" }),
      button("Rotate", changing(() => rotate(key)), { name: "rotate" }),
      key.status === "suspended"
        ? button("Resume", () => this.resume(key), { name: "suspend" })
        : button("Suspend", changing(() => this.suspend(key)), { name: "suspend" }),
      button("Revoke", changing(() => this.revoke(key)), { name: "revoke", kind: "danger" }),
    ];
    fill(this.actions, statusBadge(key), key.status !== "revoked" && all);
  }

  showFacts(key) {
    const facts = [
      ["Id", key.id],
      ["Begins with", h("code", {}, key.prefix)],
      ["Organization", h("a", { href: `#keys/${encodeURIComponent(key.org_name)}`, "data-focus": "org" }, key.org_name)],
      ["Scopes", key.scopes.join(", ") || "none"],
      ["Allowed addresses", key.allowed_ips.join(", ") || "all"],
      ["Created", time(key.created_at)],
      ["Last used", time(key.last_used_at)],
      ["Expires", time(key.expires_at)],
    ];
    fill(this.facts, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  showLimits(limits) {
    fill(this.limits, table("Limits", [
      { title: "Limit", cell: ({ name, shadow }) => [name, shadow && h("small", {}, "shadow: never refuses")] },
      { title: "Remaining", number: true, cell: ({ limit, remaining }) =>
        [`${number(remaining)} of ${number(limit)}`, partBar(remaining / limit, remaining === 0 ? "refused" : "admitted")] },
      { title: "Grows", cell: ({ remaining, limit, reset }) =>
        remaining === limit ? "" : reset === null ? "never" : `in ${seconds(reset)}` },
      { title: "Overridden", cell: ({ overridden_until }) => overridden_until ? ["until ", time(overridden_until)] : "no" },
      { title: "Actions", cell: (limit) => h("div", { class: "row-actions" }, this.limitActions(limit)) },
    ], limits, "No limits."));
  }

  limitActions({ name, overridden_until }) {
    const reset = async () => {
      await post(`keys/${this.id}/reset`, { limit: name });
      announce(`The count of ${name} was reset.`);
      await this.onchange();
    };
    const restore = async () => {
      await remove(`keys/${this.id}/overrides`, { limit: name });
      announce(`The limit ${name} is in force again.`);
      await this.onchange();
    };
    const override = async () => {
      const done = await ask({
        title: `Override ${name}`,
        text: "Until then, the limit neither refuses nor counts.",
        submit: "Override",
        fields: [{ name: "duration", label: "For or until", value: "1 hour", required: true, hint: "Such as: 1 hour, 4:00 PM" }],
        action: ({ duration }) => post(`keys/${this.id}/overrides`, { limit: name, duration }),
      });
      if (done) await this.onchange();
    };
    return [
      button("Reset", reset, { name: `reset ${name}`, title: `Reset ${name}` }),
      overridden_until
        ? button("Restore", restore, { name: `restore ${name}`, title: `Restore ${name}` })
        : button("Override", override, { name: `override ${name}`, title: `Override ${name}` }),
    ];
  }

  showUsage(paths, reasons) {
    fill(this.paths, table("Paths with the most requests", [
      { title: "Path", cell: ({ path }) => h("code", {}, path) },
      { title: "Requests", number: true, cell: ({ requests }) =>
        [number(requests), h("small", {}, percent(requests / paths.requests))] },
      { title: "Errors", number: true, cell: ({ errors }) => number(errors) },
    ], paths.rows, "No requests."));
    fill(this.reasons, table("Refusals by reason", [
      { title: "Reason", cell: ({ reason }) => words(reason) },
      { title: "Refused", number: true, cell: ({ requests }) => number(requests) },
    ], reasons.rows, "Nothing was refused."));
  }

  suspend(key) {
    return confirm({
      title: `Suspend ${key.label}?`,
      text: "Every request with this key is refused until it is resumed.",
      submit: "Suspend",
      done: `${key.label} is suspended.`,
      action: () => post(`keys/${key.id}/suspend`),
    });
  }

  async resume(key) {
    await post(`keys/${key.id}/resume`);
    announce(`${key.label} is no longer suspended.`);
    await this.onchange();
  }

  revoke(key) {
    return confirm({
      title: `Revoke ${key.label}?`,
      text: "Every request with this key is refused from now on. This cannot be undone.",
      submit: "Revoke",
      done: `${key.label} is revoked.`,
      action: () => remove(`keys/${key.id}`),
    });
  }
}
