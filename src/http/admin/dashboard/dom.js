// Elements, tables and texts. Texts become text nodes, never HTML.

/** Creates an element. `on…` properties are listeners, others attributes; strings among the children are text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : visible(child));
  }
}

/** Shows control and format characters as escapes, so that a text cannot look like another one. */
export function visible(value) {
  const escape = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;
  return String(value).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escape);
}

/**
 * Creates a table. A column has a `title` and a function `cell` from a row to children; `number` aligns it to
 * the right. Narrow screens show rows as cards, which takes away the roles of a table: they are explicit.
 */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = columns.map(({ title, number }) =>
    h("th", { scope: "col", role: "columnheader", class: number && "number" }, title));
  const body = rows.map((row) =>
    h("tr", { role: "row" }, columns.map(({ title, cell, number }) =>
      h("td", { role: "cell", "data-title": title, class: number && "number" }, cell(row)))));
  return h("div", { class: "table" }, h("table", { role: "table" },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body)));
}

/** Runs `render`, then gives the focus back to the element of the same name (`data-focus`). */
export function keepingFocus(container, render) {
  const focused = container.contains(document.activeElement) && document.activeElement;
  const name = focused && focused.dataset.focus;
  render();
  if (!name || container.contains(document.activeElement)) return;
  for (const element of container.querySelectorAll("[data-focus]")) {
    if (element.dataset.focus === name) return element.focus();
  }
}

/** A titled part of a page. */
export function panel(title, ...children) {
  return h("section", { class: "panel" }, h("h2", {}, title), children);
}

/** A button, which announces why its action failed; `name` identifies it when it is rendered again. */
export function button(label, action, { name, kind, title } = {}) {
  const onclick = async () => {
    try {
      await action();
    } catch (error) {
      announce(error.message);
    }
  };
  const properties = { type: "button", class: kind, "data-focus": name, "aria-label": title, onclick };
  return h("button", properties, label);
}

export function badge(text, kind) {
  return h("span", { class: `badge ${kind}` }, text);
}

/** A bar that shows a part from 0 to 1; the text beside it says the same. */
export function partBar(part, kind = "") {
  const filled = h("span", { class: `filled ${kind}` });
  filled.style.width = `${Math.min(Math.max(part, 0), 1) * 100}%`;
  return h("span", { class: "part", "aria-hidden": "true" }, filled);
}

/** Choices of which one is selected. */
export function choice(label, options, selected, onchange) {
  const items = options.map(([value, text]) =>
    h("option", { value, selected: value === selected }, text));
  return h("label", { class: "choice" }, label,
    h("select", { onchange: (event) => onchange(event.target.value) }, items));
}

/** Announces a message. */
export function announce(message) {
  const status = document.getElementById("status");
  fill(status, message);
  status.classList.toggle("shown", message !== "");
  clearTimeout(announce.timer);
  if (message) announce.timer = setTimeout(() => announce(""), 8_000);
}
