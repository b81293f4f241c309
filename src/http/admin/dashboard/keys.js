// The list of keys, and the forms that create and change keys.

import { get, patch, post } from "./api.js";
import { ask, show } from "./dialog.js";
import { announce, badge, button, choice, fill, h } from "./dom.js";
import { keyLink, time } from "./format.js";
import { loadAll, SearchList } from "./lists.js";

const STATUSES = [["", "any"], ["active", "active"], ["suspended", "suspended"], ["expired", "expired"], ["revoked", "revoked"]];
const KINDS = { active: "good", suspended: "warn", expired: "warn", revoked: "bad" };

const EXPIRY = { name: "expires_at", label: "Expires", type: "datetime-local", hint: "Empty for never." };

export const statusBadge = ({ status }) => badge(status, KINDS[status] ?? "bad");

export class Keys {
  title = "Keys";
  status = "";

  /** `org` is the name of an organization whose keys are listed. */
  constructor(org = "") {
    this.org = org;
    if (org) this.title = `Keys of ${org}`;
    this.list = new SearchList({
      caption: "Keys",
      empty: "No keys.",
      onsearch: () => this.onchange(),
      filter: (key) => this.status === "" || key.status === this.status,
      columns: [
        { title: "Key", cell: ({ id, label }) => keyLink(id, label) },
        { title: "Id", cell: ({ id }) => id },
        { title: "Begins with", cell: ({ prefix }) => h("code", {}, prefix) },
        { title: "Organization", cell: ({ org_name }) => org_name },
        { title: "Status", cell: statusBadge },
        { title: "Per minute", number: true, cell: (key) => key.rate_limit_per_minute },
        { title: "Last used", cell: ({ last_used_at }) => time(last_used_at) },
        { title: "Expires", cell: ({ expires_at }) => time(expires_at) },
      ],
      actions: [
        choice("Status ", STATUSES, "", (status) => { this.status = status; this.list.render(); }),
        button("Create key", () => this.create(), { kind: "primary", name: "create" }),
      ],
    });
    const all = org && h("p", {}, h("a", { href: "#keys" }, "Keys of all organizations"));
    this.root = h("div", {}, all, this.list.root);
  }

  async refresh() {
    await this.list.load((search) => loadAll("keys", { org: this.org, search, limit: 1_000 }));
  }

  async create() {
    const orgs = (await get("orgs", { limit: 1_000 })).map((org) => org.name);
    if (orgs.length === 0) return announce("Create an organization first.");
    let created;
    const done = await ask({
      title: "Create key",
      submit: "Create key",
      fields: [
        { name: "org_name", label: "Organization", required: true, list: orgs, value: this.org || (orgs.length === 1 ? orgs[0] : "") },
        { name: "label", label: "Label", required: true, hint: "What the key is for, such as: web shop" },
        ...limitFields({}),
        EXPIRY,
      ],
      action: async (values) => { created = await post("keys", values); },
    });
    if (!done) return;
    await this.refresh();
    await showText("Key created", created);
  }
}

/** The fields that keys have in common when they are created and changed. */
function limitFields({ rate_limit_per_minute, limits = [], scopes = [], allowed_ips = [] }) {
  return [
    { name: "rate_limit_per_minute", label: "Requests per minute", type: "number", min: 1, value: rate_limit_per_minute,
      hint: rate_limit_per_minute ? undefined : "Empty for the default." },
    { name: "limits", label: "Further limits", type: "lines", value: limits.join("\n"),
      hint: "One per line, such as: 10/s, 500000 monthly, 5000 credits +100/hour, 8 concurrent" },
    { name: "scopes", label: "Scopes", type: "lines", value: scopes.join("\n"), hint: "One per line, such as: orders:read" },
    { name: "allowed_ips", label: "Allowed addresses", type: "lines", value: allowed_ips.join("\n"),
      hint: "Addresses and networks, one per line. Empty for all." },
  ];
}

export function edit(key) {
  return ask({
    title: `Change ${key.label}`,
    submit: "Save",
    fields: [
      { name: "label", label: "Label", required: true, value: key.label },
      ...limitFields(key),
      { ...EXPIRY, value: localMinute(key.expires_at) },
    ],
    action: ({ expires_at = null, ...values }) => {
      if (localMinute(expires_at) !== localMinute(key.expires_at)) values.expires_at = expires_at;
      // The others may have been changed by somebody else meanwhile.
      const isChanged = ([name, value]) => JSON.stringify(value) !== JSON.stringify(key[name]);
      const changed = Object.entries(values).filter(isChanged);
      return changed.length > 0 ? patch(`keys/${key.id}`, Object.fromEntries(changed)) : key;
    },
  });
}

/** A time as the value of a field: in local time, without seconds. */
function localMinute(text) {
  if (text === null) return undefined;
  const date = new Date(text);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

export async function rotate(key) {
  let rotated;
  const done = await ask({
    title: `Rotate ${key.label}`,
    text: "The key gets a new text. Limits, quotas and usage carry on.",
    submit: "Rotate",
    fields: [
      { name: "grace", label: "Accept the old text for", value: "1 hour", required: true,
        hint: "Such as: 1 hour, 7d; 0 if it has leaked." },
      ...(key.status === "expired" ? [{ ...EXPIRY, required: true, hint: undefined }] : []),
    ],
    action: async (values) => { rotated = await post(`keys/${key.id}/rotate`, values); },
  });
  if (done) await showText("Key rotated", rotated);
  return done;
}

/** Shows the text of a key, once. */
function showText(title, { raw_key, label, org_name }) {
  const text = h("input", { readonly: true, value: raw_key, class: "key-text", "aria-label": "Text of the key", id: "key-text" });
  const copying = h("p", { class: "hint", role: "status" });
  const copy = async () => {
    text.select();
    // Without TLS, browsers offer the clipboard to pages on this computer only.
    const copied = await navigator.clipboard?.writeText(raw_key).then(() => true, () => false);
    fill(copying, copied || document.execCommand("copy") ? "Copied." : "Press Ctrl+C to copy.");
  };
  const content = [
    h("p", {}, `The text of ${label} (${org_name}). It is shown only once: copy it now. Only its hash is stored.`),
    h("div", { class: "copy" }, text, button("Copy", copy)),
    copying,
  ];
  return show({ title, content, close: "I have copied it" });
}
