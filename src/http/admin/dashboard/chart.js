// The chart of requests over time: stacked bars, and the same counts as a table.

import { fill, h, table } from "./dom.js";
import { compact, number } from "./format.js";
import { OUTCOMES, RANGES, totals } from "./usage.js";

const HEIGHT = 220;
const DAY = 86_400;
const STEPS = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();
const DARK = matchMedia("(prefers-color-scheme: dark)");

export class OutcomeChart {
  constructor() {
    this.canvas = h("div", { class: "canvas", role: "img" });
    this.values = Object.fromEntries(OUTCOMES.map(({ name }) => [name, h("strong")]));
    this.when = h("span", { class: "when" });
    const entries = OUTCOMES.map(({ name, title }) =>
      h("li", {}, h("span", { class: `swatch ${name}` }), title, " ", this.values[name]));
    this.rows = h("div");
    const details = h("details", {}, h("summary", {}, "Show as a table"), this.rows);
    this.root = h("div", { class: "chart" }, h("ul", { class: "legend" }, entries, h("li", {}, this.when)),
      this.canvas, details);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.canvas);
    this.redraw = () => this.draw();
    DARK.addEventListener("change", this.redraw);
  }

  close() {
    this.observer.disconnect();
    DARK.removeEventListener("change", this.redraw);
    this.plot?.destroy();
  }

  /** Shows counts by period; `range` is a name of `RANGES`. */
  show(range, counts) {
    if (range === this.range && JSON.stringify(counts) === JSON.stringify(this.counts)) return;
    Object.assign(this, { range, counts });
    const sum = totals(counts);
    const { by, text } = RANGES[range];
    const parts = OUTCOMES.map(({ name, title }) => `${number(sum[name])} ${title.toLowerCase()}`);
    this.canvas.setAttribute("aria-label", `Requests by ${by}, ${text}: ${parts.join("; ")}`);
    this.legend(null);
    const columns = [
      { title: by === "day" ? "Day (UTC)" : "Start", cell: (count) => this.name(count.start) },
      ...OUTCOMES.map(({ name, title }) => ({ title, number: true, cell: (count) => number(count[name]) })),
    ];
    const used = counts.filter((count) => OUTCOMES.some(({ name }) => count[name] > 0));
    fill(this.rows, table(`Requests by ${by}`, columns, used.reverse(), "No requests."));
    this.draw();
  }

  draw() {
    if (!this.counts) return;
    this.plot?.destroy();
    const width = this.canvas.clientWidth;
    this.plot = width > 0 ? new uPlot(this.options(width), this.data(), this.canvas) : null;
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (!this.plot) this.draw();
    else if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** Each outcome is drawn from zero and covered by those below it, the highest sum first. */
  data() {
    const sums = OUTCOMES.map((_, top) => this.counts.map((count) =>
      OUTCOMES.slice(0, top + 1).reduce((sum, { name }) => sum + count[name], 0)));
    return [this.counts.map((count) => count.start), ...sums.reverse()];
  }

  options(width) {
    const styles = getComputedStyle(document.documentElement);
    const color = (name) => styles.getPropertyValue(`--${name}`).trim();
    const { period, by } = RANGES[this.range];
    const axis = { stroke: color("muted"), font: `12px ${styles.fontFamily}` };
    const starts = this.counts.map((count) => count.start);
    // A bar begins at its period.
    const periodAt = ({ cursor, posToVal }) =>
      cursor.left < 0 ? null : Math.floor((posToVal(cursor.left, "x") - starts[0]) / period);
    return {
      width,
      height: HEIGHT,
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      tzDate: (seconds) => by === "day" ? uPlot.tzDate(new Date(seconds * 1_000), "Etc/UTC") : new Date(seconds * 1_000),
      scales: {
        x: { range: () => [starts[0], starts.at(-1) + period] },
        y: { range: (_, __, most) => [0, Math.max(most * 1.05, 4)] },
      },
      axes: [
        { ...axis, grid: { show: false }, ticks: { stroke: color("line") }, space: 60, size: 32,
          values: (_, splits, __, ___, step) => splits.map((split) => this.tick(split, step)) },
        { ...axis, grid: { stroke: color("line") }, ticks: { show: false }, incrs: STEPS, size: 46,
          values: (_, splits) => splits.map(compact) },
      ],
      series: [{}, ...OUTCOMES.toReversed().map(({ name }) => ({
        fill: color(name),
        width: 0,
        points: { show: false },
        paths: uPlot.paths.bars({ size: [0.8, 40], align: 1 }),
      }))],
      hooks: { setCursor: [(plot) => this.legend(periodAt(plot))] },
    };
  }

  /** Shows the counts of a period, or of all. */
  legend(index) {
    const count = this.counts[index];
    const shown = count ?? totals(this.counts);
    for (const { name } of OUTCOMES) fill(this.values[name], number(shown[name]));
    fill(this.when, count ? this.name(count.start) : RANGES[this.range].text);
  }

  name(start) {
    const { by } = RANGES[this.range];
    return by === "day" ? dateOf(start, "UTC") : `${dateOf(start)}, ${timeOf(start)}`;
  }

  tick(start, step) {
    if (RANGES[this.range].by === "day") return dateOf(start, "UTC");
    return step >= DAY ? dateOf(start) : timeOf(start);
  }
}

const dateOf = (seconds, timeZone) =>
  new Date(seconds * 1_000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone });
const timeOf = (seconds) =>
  new Date(seconds * 1_000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
