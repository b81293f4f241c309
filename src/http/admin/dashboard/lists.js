// Long lists: loading pages, searching and showing more.

import { pages } from "./api.js";
import { button, fill, h, keepingFocus, table } from "./dom.js";
import { number } from "./format.js";

/** The number of rows that a list loads and searches, and of those that it shows at first. */
const MOST_LOADED = 5_000;
const SHOWN = 50;

/** Loads the rows of a list. `isWhole` tells whether there are no more. */
export async function loadAll(path, query) {
  const rows = [];
  for await (const page of pages(path, query)) {
    rows.push(...page);
    if (rows.length >= MOST_LOADED) return { rows, isWhole: false };
  }
  return { rows, isWhole: true };
}

/** A list with a search in the text that `textOf` returns. `beyond` links to rows that are not loaded. */
export class SearchList {
  rows = [];
  isWhole = true;
  shown = SHOWN;

  constructor({ caption, columns, textOf, search = "", empty, actions = [], filter, beyond }) {
    Object.assign(this, { caption, columns, textOf, empty, filter, beyond });
    this.input = h("input", { type: "search", value: search, "aria-label": `Search: ${caption}`, placeholder: "Search",
      autocomplete: "off", spellcheck: "false", oninput: () => { this.shown = SHOWN; this.render(); } });
    this.count = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "list" });
    this.root = h("div", {}, h("div", { class: "tools" }, this.input, actions), this.count, this.list);
  }

  set({ rows, isWhole }) {
    Object.assign(this, { rows, isWhole });
    this.render();
  }

  render() {
    const wanted = this.input.value.trim().toLowerCase();
    const found = this.rows.filter((row) =>
      (!this.filter || this.filter(row)) && (wanted === "" || this.textOf(row).toLowerCase().includes(wanted)));
    const more = found.length > this.shown &&
      button("Show more", () => { this.shown += SHOWN; this.render(); }, { name: "more" });
    const loaded = this.isWhole ? "" : `, searched in the first ${number(this.rows.length)}`;
    const beyond = !this.isWhole && wanted !== "" && this.beyond?.(this.input.value.trim());
    fill(this.count, `${number(Math.min(this.shown, found.length))} of ${number(found.length)} shown${loaded}`,
      beyond && [". Look further: ", beyond]);
    keepingFocus(this.list, () => {
      fill(this.list, table(this.caption, this.columns, found.slice(0, this.shown), this.empty), more);
    });
  }
}
