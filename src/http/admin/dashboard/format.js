// Numbers, times and names as people read them.

import { h } from "./dom.js";

const LOCALE = "en-GB";
const NUMBER = new Intl.NumberFormat(LOCALE);
const COMPACT = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 });
const PERCENT = new Intl.NumberFormat(LOCALE, { style: "percent", maximumFractionDigits: 1 });
const MOMENT = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });
const RELATIVE = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto" });

export const number = (value) => NUMBER.format(value);
export const compact = (value) => COMPACT.format(value);
export const percent = (part) => PERCENT.format(part);
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A time, with the local date and time as its title. */
export function time(text, never = "never") {
  if (text === null || text === undefined) return never;
  const date = new Date(text);
  return h("time", { datetime: text, title: MOMENT.format(date) }, relative(date));
}

/** A time as local date and time. */
export function moment(text) {
  return h("time", { datetime: text }, MOMENT.format(new Date(text)));
}

function relative(date) {
  const seconds = Math.round((date - Date.now()) / 1_000);
  for (const [unit, length] of [["day", 86_400], ["hour", 3_600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return RELATIVE.format(Math.trunc(seconds / length), unit);
  }
  return RELATIVE.format(seconds, "second");
}

/** A number of seconds as text. */
export function seconds(count) {
  const units = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
  const [unit, length] = units.find(([, length]) => count >= length) ?? units[3];
  return plural(Math.round(count / length), unit);
}

/** Microseconds as milliseconds. */
export const latency = (micros) => `${NUMBER.format(Math.round(micros / 100) / 10)} ms`;

/** A name in code, such as `rate_limited`, as words. */
export function words(name) {
  const text = name.replaceAll("_", " ").replace(/\bip\b/g, "IP");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A key as a link. */
export function keyLink(id, label) {
  return h("a", { href: `#key/${id}`, "data-focus": `key ${id}` }, label);
}
