// Dialogs with a form.

import { announce, button, fill, h } from "./dom.js";

/**
 * Shows a form. `action` gets the values by name; the dialog closes when it succeeds, and shows the problem
 * when it fails. Returns whether the action was carried out.
 */
export function ask({ title, text, fields = [], submit, danger = false, action }) {
  return new Promise((resolve) => {
    let done = false;
    const problem = h("p", { class: "problem", role: "alert" });
    const accept = h("button", { type: "submit", class: danger ? "danger" : "primary" }, submit);
    const send = async (event) => {
      event.preventDefault();
      accept.disabled = true;
      fill(problem);
      try {
        await action(valuesOf(form, fields));
        done = true;
        dialog.close();
      } catch (error) {
        fill(problem, error.message);
        mark(form, fields, error.field);
      } finally {
        accept.disabled = false;
      }
    };
    const form = h("form", { onsubmit: send },
      text && h("p", {}, text),
      fields.map(field),
      problem,
      h("div", { class: "actions" }, button("Cancel", () => dialog.close()), accept));
    const dialog = open(title, form, () => resolve(done));
  });
}

/** Shows something until its button is pressed; Escape does not close it. */
export function show({ title, content, close = "Close" }) {
  return new Promise((resolve) => {
    const closing = button(close, () => dialog.close(), { kind: "primary" });
    const dialog = open(title, [content, h("div", { class: "actions" }, closing)], resolve);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
  });
}

/** Asks for a confirmation of an action that cannot be undone. */
export function confirm({ title, text, submit, done, action }) {
  return ask({ title, text, submit, danger: true, action })
    .then((confirmed) => { if (confirmed) announce(done); return confirmed; });
}

function open(title, content, closed) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, heading, content);
  dialog.addEventListener("close", () => { dialog.remove(); closed(); });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

function field({ name, label, hint, type = "text", value, options, list, required, min, rows }) {
  const id = `field-${name}`;
  const common = { id, name, required, "aria-describedby": hint && `${id}-hint` };
  let input;
  if (type === "choice") {
    const items = options.map(([value, text]) => h("option", { value }, text));
    input = h("select", common, items);
  } else if (type === "lines") {
    input = h("textarea", { ...common, rows: rows ?? 2, spellcheck: "false" });
  } else {
    input = h("input", { ...common, type, min, autocomplete: "off", list: list && `${id}-list` });
  }
  if (value !== undefined && value !== null) input.value = value;
  return h("div", { class: "field" },
    h("label", { for: id }, label),
    input,
    list && h("datalist", { id: `${id}-list` }, list.map((value) => h("option", { value }))),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint));
}

/** The values of a form: lines as lists, numbers as numbers, and nothing for empty fields. */
function valuesOf(form, fields) {
  const values = {};
  for (const { name, type } of fields) {
    const text = form.elements[name].value.trim();
    if (type === "lines") {
      values[name] = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
    } else if (text !== "") {
      values[name] = type === "number" ? Number(text) : text;
      if (type === "datetime-local") values[name] = new Date(text).toISOString();
    }
  }
  return values;
}

/** Marks the field that the service names, such as `limits[0]`. */
function mark(form, fields, invalid = "") {
  const path = invalid.split(/[.[]/)[0];
  for (const { name } of fields) {
    const input = form.elements[name];
    input.setAttribute("aria-invalid", String(name === path));
    if (name === path) input.focus();
  }
}
