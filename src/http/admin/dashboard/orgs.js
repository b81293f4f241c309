// The list of organizations.

import { patch, post } from "./api.js";
import { ask, confirm } from "./dialog.js";
import { announce, badge, button, h } from "./dom.js";
import { time } from "./format.js";
import { loadAll, SearchList } from "./lists.js";

export class Orgs {
  title = "Organizations";

  constructor() {
    this.list = new SearchList({
      caption: "Organizations",
      empty: "No organizations.",
      onsearch: () => this.onchange(),
      columns: [
        { title: "Name", cell: ({ id, name }) =>
          h("a", { href: `#keys/${encodeURIComponent(name)}`, "data-focus": `org ${id}` }, name) },
        { title: "Id", cell: ({ id }) => id },
        { title: "Status", cell: ({ status }) => badge(status, status === "active" ? "good" : "bad") },
        { title: "Shared limits", cell: ({ limits }) => limits.join(", ") || "none" },
        { title: "Created", cell: ({ created_at }) => time(created_at) },
        { title: "Actions", cell: (org) => h("div", { class: "row-actions" }, this.actions(org)) },
      ],
      actions: [button("Create organization", () => this.create(), { kind: "primary", name: "create" })],
    });
    this.root = this.list.root;
  }

  async refresh() {
    await this.list.load((search) => loadAll("orgs", { search, limit: 1_000 }));
  }

  actions(org) {
    const { id, name } = org;
    return [
      button("Limits", () => this.edit(org), { name: `limits ${id}`, title: `Limits of ${name}` }),
      org.status === "active"
        ? button("Suspend", () => this.suspend(org), { name: `suspend ${id}`, title: `Suspend ${name}` })
        : button("Resume", () => this.resume(org), { name: `suspend ${id}`, title: `Resume ${name}` }),
    ];
  }

  create() {
    return this.change({
      title: "Create organization",
      submit: "Create organization",
      fields: [{ name: "org_name", label: "Name", required: true }],
      action: (values) => post("orgs", values),
    });
  }

  edit({ id, name, limits }) {
    return this.change({
      title: `Limits of ${name}`,
      text: "All keys of the organization share these limits.",
      submit: "Save",
      fields: [{ name: "limits", label: "Limits", type: "lines", value: limits.join("\n"), rows: 4,
        hint: "One per line, such as: 1000/s, 500000 monthly" }],
      action: (values) => patch(`orgs/${id}`, values),
    });
  }

  async suspend({ id, name }) {
    const done = await confirm({
      title: `Suspend ${name}?`,
      text: "All keys of the organization are refused until it is resumed.",
      submit: "Suspend",
      done: `${name} is suspended.`,
      action: () => post(`orgs/${id}/suspend`),
    });
    if (done) await this.onchange();
  }

  async resume({ id, name }) {
    await post(`orgs/${id}/resume`);
    announce(`The keys of ${name} are accepted again.`);
    await this.onchange();
  }

  async change(form) {
    if (await ask(form)) await this.onchange();
  }
}
