// Long lists: loading pages, searching and showing more.

import { pages } from "./api.js";
import { button, fill, h, keepingFocus, table } from "./dom.js";
import { number } from "./format.js";

/** The number of rows that a list loads, and of those that it shows at first. */
const MOST_LOADED = 5_000;
const SHOWN = 50;

/** How long the typing of a search pauses before the service is asked, in milliseconds. */
const PAUSE = 250;

/** Loads the rows of a list. `isWhole` tells whether there are no more. */
export async function loadAll(path, query) {
  const rows = [];
  for await (const page of pages(path, query)) {
    rows.push(...page);
    if (rows.length >= MOST_LOADED) return { rows, isWhole: false };
  }
  return { rows, isWhole: true };
}

/**
 * A list with a search: in the text that `textOf` returns, or by the service if there is none, which `onsearch` asks
 * then.
 */
export class SearchList {
  rows = [];
  isWhole = true;
  shown = SHOWN;

  constructor({ caption, columns, textOf, onsearch, empty, actions = [], filter }) {
    Object.assign(this, { caption, columns, textOf, onsearch, empty, filter });
    this.input = h("input", { type: "search", "aria-label": `Search: ${caption}`, placeholder: "Search",
      autocomplete: "off", spellcheck: "false", oninput: () => this.search() });
    this.count = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "list" });
    this.root = h("div", {}, h("div", { class: "tools" }, this.input, actions), this.count, this.list);
  }

  /** The text to look for. */
  get wanted() {
    return this.input.value.trim();
  }

  search() {
    this.shown = SHOWN;
    clearTimeout(this.timer);
    if (this.textOf) this.render();
    else this.timer = setTimeout(this.onsearch, PAUSE);
  }

  /** Loads the rows with the text to look for. Another search may begin meanwhile. */
  async load(read) {
    const { wanted } = this;
    const loaded = await read(wanted);
    if (wanted === this.wanted) this.set(loaded);
  }

  set({ rows, isWhole }) {
    Object.assign(this, { rows, isWhole });
    this.render();
  }

  render() {
    const wanted = this.wanted.toLowerCase();
    const found = this.rows.filter((row) =>
      (!this.filter || this.filter(row)) && (!this.textOf || this.textOf(row).toLowerCase().includes(wanted)));
    const more = found.length > this.shown &&
      button("Show more", () => { this.shown += SHOWN; this.render(); }, { name: "more" });
    const loaded = this.isWhole ? "" : `, of the first ${number(this.rows.length)}`;
    fill(this.count, `${number(Math.min(this.shown, found.length))} of ${number(found.length)} shown${loaded}`);
    keepingFocus(this.list, () => {
      fill(this.list, table(this.caption, this.columns, found.slice(0, this.shown), this.empty), more);
    });
  }
}
