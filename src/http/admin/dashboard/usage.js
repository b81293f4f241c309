// Requests over time by outcome, and the ranges of time.

import { get } from "./api.js";

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** What is counted by which period, and how often it is worth asking again. */
export const RANGES = {
  "1h": { text: "last hour", by: "minute", period: MINUTE, periods: 60, interval: 5_000 },
  "24h": { text: "last 24 hours", by: "hour", period: HOUR, periods: 24, interval: 5_000 },
  "7d": { text: "last 7 days", by: "hour", period: HOUR, periods: 7 * 24, interval: 60_000 },
  "30d": { text: "last 30 days", by: "day", period: DAY, periods: 30, interval: 60_000 },
};

export const RANGE_CHOICES = Object.entries(RANGES).map(([name, { text }]) => [name, text]);

/** The outcomes in the order in which they are stacked. */
export const OUTCOMES = [
  { name: "admitted", title: "Admitted" },
  { name: "failed", title: "Admitted, status 400 or above" },
  { name: "refused", title: "Refused" },
];

/** The start of a range: that of its first period. */
export function startOf(range) {
  const { period, periods } = RANGES[range];
  const current = Math.floor(Date.now() / 1_000 / period);
  return (current - periods + 1) * period;
}

/** Counts requests by period and outcome; `filter` restricts them to a key or an address. */
export async function outcomes(range, filter = {}) {
  const { by, period, periods } = RANGES[range];
  const first = startOf(range);
  const query = { by, since: new Date(first * 1_000).toISOString(), ...filter };
  const [all, refused] = await Promise.all([
    get("usage", query),
    get("usage", { ...query, refused: true }),
  ]);
  const starts = Array.from({ length: periods }, (_, index) => first + index * period);
  const counts = starts.map((start) => ({ start, admitted: 0, failed: 0, refused: 0 }));
  const at = (row) => counts[Math.round((Date.parse(row.start) / 1_000 - first) / period)];
  for (const row of refused.rows) {
    const count = at(row);
    if (count) count.refused = row.requests;
  }
  for (const row of all.rows) {
    const count = at(row);
    if (!count) continue;
    // Requests may arrive between the two answers.
    count.failed = Math.max(row.errors - count.refused, 0);
    count.admitted = Math.max(row.requests - count.refused - count.failed, 0);
  }
  return counts;
}

export function totals(counts) {
  const sum = { admitted: 0, failed: 0, refused: 0 };
  for (const { name } of OUTCOMES) sum[name] = counts.reduce((all, count) => all + count[name], 0);
  sum.requests = sum.admitted + sum.failed + sum.refused;
  return sum;
}
