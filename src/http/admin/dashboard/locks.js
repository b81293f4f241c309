// The locks in force.

import { get, post, remove } from "./api.js";
import { ask, confirm } from "./dialog.js";
import { button, h } from "./dom.js";
import { moment, time, words } from "./format.js";
import { SearchList } from "./lists.js";

export class Locks {
  title = "Locks";
  interval = 5_000;

  constructor() {
    this.list = new SearchList({
      caption: "Locks",
      empty: "No address is locked out.",
      textOf: (lock) => [lock.ip, scopeOf(lock), causeOf(lock)].join(" "),
      columns: [
        { title: "Address", cell: ({ ip }) => h("code", {}, ip) },
        { title: "Refused", cell: scopeOf },
        { title: "Cause", cell: causeOf },
        { title: "Since", cell: ({ since }) => time(since) },
        { title: "Until", cell: ({ until }) => moment(until) },
        { title: "Actions", cell: (lock) => button("Unlock", () => this.unlock(lock),
          { name: `unlock ${lock.ip} ${scopeOf(lock)}`, title: `Unlock ${lock.ip}` }) },
      ],
      actions: [button("Lock an address", () => this.lock(), { kind: "primary", name: "lock" })],
    });
    this.root = this.list.root;
  }

  async refresh() {
    this.list.set({ rows: await get("blocks"), isWhole: true });
  }

  async lock() {
    const done = await ask({
      title: "Lock an address",
      submit: "Lock",
      fields: [
        { name: "ip", label: "Address", required: true, hint: "Such as: 192.0.2.7" },
        { name: "duration", label: "For or until", required: true, value: "1 hour", hint: "Such as: 1 hour, 7d, 4:00 PM" },
        { name: "path", label: "Path", hint: "Empty for all paths." },
      ],
      action: (values) => post("blocks", values),
    });
    if (done) await this.onchange();
  }

  async unlock({ ip, scope }) {
    const path = scope.path;
    const done = await confirm({
      title: `Unlock ${ip}?`,
      text: path ? `This ends its locks of ${path}.` : "This ends all locks of the address.",
      submit: "Unlock",
      done: `${ip} is unlocked.`,
      action: () => remove("blocks", { ip, path }),
    });
    if (done) await this.onchange();
  }
}

function scopeOf({ scope }) {
  if (scope === "all") return "all requests";
  if (scope === "keyless") return "requests without a key";
  return scope.path ?? `requests under limit ${scope.ip_limit}`;
}

function causeOf({ cause }) {
  return typeof cause === "string" ? words(cause) : `Limit ${cause.ip_limit}`;
}
