// The first view: warnings, totals, requests over time, and the latest requests.

import { get } from "./api.js";
import { OutcomeChart } from "./chart.js";
import { choice, fill, h, keepingFocus, panel, partBar, table } from "./dom.js";
import { keyLink, latency, number, percent, time, words } from "./format.js";
import { outcomes, RANGE_CHOICES, RANGES, startOf, totals } from "./usage.js";

/** The number of latest requests to show. */
const LATEST = 20;

/** How long findings are shown until they are looked for again, in milliseconds: all keys are read for that. */
const DIAGNOSED_FOR = 300_000;

export class Overview {
  title = "Overview";
  range = "1h";
  latest = [];
  findings = [];
  diagnosedAt = -Infinity;

  constructor() {
    this.warnings = h("div");
    this.tiles = h("dl", { class: "tiles" });
    this.chart = new OutcomeChart();
    this.topKeys = h("div");
    this.reasons = h("div");
    this.requests = h("div");
    const range = choice("Time ", RANGE_CHOICES, this.range, (range) => this.select(range));
    this.root = h("div", {},
      this.warnings,
      this.tiles,
      h("section", { class: "panel" }, h("div", { class: "heading" }, h("h2", {}, "Requests"), range), this.chart.root),
      h("div", { class: "columns" },
        panel("Top keys", this.topKeys),
        panel("Refusals by reason", this.reasons)),
      panel("Latest requests", this.requests));
  }

  get interval() {
    return RANGES[this.range].interval;
  }

  close() {
    this.chart.close();
  }

  async select(range) {
    this.range = range;
    await this.onchange();
  }

  async refresh() {
    const { range, next: from } = this;
    const [stats, tail] = await Promise.all([get("stats"), get("usage/tail", { from })]);
    this.showWarnings(stats);
    // Another refresh may have shown the same requests.
    if (from === this.next) keepingFocus(this.requests, () => this.showLatest(tail));
    const since = new Date(startOf(range) * 1_000).toISOString();
    const [counts, keys, reasons] = await Promise.all([
      outcomes(range),
      get("usage", { by: "key", since, limit: 10 }),
      get("usage", { by: "reason", refused: true, since }),
    ]);
    if (range !== this.range) return;
    this.showTiles(stats, totals(counts));
    this.chart.show(range, counts);
    keepingFocus(this.topKeys, () => this.showTopKeys(keys));
    this.showReasons(reasons);
    if (Date.now() - this.diagnosedAt < DIAGNOSED_FOR) return;
    this.diagnosedAt = Date.now();
    const { conditions } = await get("diagnosis");
    this.findings = conditions.map(({ problem }) => problem).filter((problem) => !stats.warnings.includes(problem));
    this.showWarnings(stats);
  }

  showWarnings(stats) {
    const warnings = [...stats.warnings, ...this.findings];
    if (stats.sink_failures > 0) warnings.push(`${number(stats.sink_failures)} writes to the usage sink failed; they are retried.`);
    if (stats.rejected_locks > 0) warnings.push(`${number(stats.rejected_locks)} locks were not made: there are too many.`);
    // Assistive technology reads the list again only if it changes.
    if (JSON.stringify(warnings) === this.shownWarnings) return;
    this.shownWarnings = JSON.stringify(warnings);
    const list = h("ul", {}, warnings.map((warning) => h("li", {}, warning)));
    const shown = h("section", { class: "warnings", role: "alert" }, h("h2", {}, "Warnings"), list);
    fill(this.warnings, warnings.length > 0 && shown);
  }

  showTiles(stats, sum) {
    const part = sum.requests === 0 ? 0 : sum.refused / sum.requests;
    const tiles = [
      ["Requests", number(sum.requests), RANGES[this.range].text],
      ["Refused", number(sum.refused), `${percent(part)} of requests`],
      ["Active keys", number(stats.active_keys), `of ${number(stats.total_keys)}`],
      ["Organizations", number(stats.organizations), ""],
      ["Locks in force", number(stats.locks), ""],
      ["Requests ever", number(stats.requests), `${percent(stats.error_rate)} with status 400 or above`],
    ];
    fill(this.tiles, tiles.map(([name, value, note]) =>
      h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", {}, note)))));
  }

  showTopKeys(report) {
    const most = Math.max(...report.rows.map((row) => row.requests), 1);
    fill(this.topKeys, table("Keys with the most requests", [
      { title: "Key", cell: ({ key }) => [keyLink(key.id, key.label), h("small", {}, key.org_name)] },
      { title: "Requests", number: true, cell: ({ requests }) => [number(requests), partBar(requests / most, "admitted")] },
      { title: "Errors", number: true, cell: ({ errors }) => number(errors) },
    ], report.rows, "No requests with a known key."));
  }

  showReasons(report) {
    const most = Math.max(...report.rows.map((row) => row.requests), 1);
    const rows = table("Refusals by reason", [
      { title: "Reason", cell: ({ reason }) => words(reason) },
      { title: "Refused", number: true, cell: ({ requests }) => [number(requests), partBar(requests / most, "refused")] },
    ], report.rows, "Nothing was refused.");
    const note = h("p", { class: "hint" }, "Refusals without a known key are counted for 48 hours, and not included here.");
    fill(this.reasons, rows, !report.includes_keyless && note);
  }

  /** Adds the requests since the last reply to the latest ones. */
  showLatest(tail) {
    this.next = tail.next;
    this.latest = [...tail.requests.reverse(), ...this.latest].slice(0, LATEST);
    fill(this.requests, table("Latest requests", [
      { title: "Time", cell: ({ at }) => time(at) },
      { title: "Request", cell: ({ method, path }) => h("code", {}, `${method} ${path}`) },
      { title: "Status", cell: ({ status }) => status || "none" },
      { title: "Outcome", cell: ({ refused }) => h("span", { class: `badge ${refused ? "bad" : "good"}` }, refused ? words(refused) : "Admitted") },
      { title: "Key", cell: ({ key_id }) => key_id === null ? "unknown" : keyLink(key_id, `Key ${key_id}`) },
      { title: "Address", cell: ({ ip }) => h("code", {}, ip) },
      { title: "Latency", number: true, cell: ({ refused, latency_us }) => refused ? "" : latency(latency_us) },
    ], this.latest, "Requests appear here while this view is open."));
  }
}
