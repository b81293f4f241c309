// The admin API. The admin key is kept for this tab only.

const STORED = "keyguard.admin-key";
const ADMIN = new URL("../", document.baseURI);

/** A refusal of the API, or no response. */
export class Problem extends Error {
  constructor({ status = 0, code = "", detail, field }) {
    super(detail);
    Object.assign(this, { status, code, field });
  }
}

export const isSignedIn = () => sessionStorage.getItem(STORED) !== null;

/** Keeps the admin key if the service accepts it. */
export async function signIn(key) {
  if (!/^[\x20-\x7e]+$/.test(key)) {
    throw new Problem({ detail: "An admin key consists of visible ASCII characters." });
  }
  await send("GET", "stats", { key });
  sessionStorage.setItem(STORED, key);
}

export function signOut() {
  sessionStorage.removeItem(STORED);
}

export const get = async (path, query) => (await send("GET", path, { query })).json();
export const post = async (path, body) => (await send("POST", path, { body })).json();
export const patch = async (path, body) => (await send("PATCH", path, { body })).json();
export const remove = async (path, query) => (await send("DELETE", path, { query })).json();

/** Yields the pages of a list, which each name the next one. */
export async function* pages(path, query) {
  for (let next = query; next;) {
    const response = await send("GET", path, { query: next });
    const rows = await response.json();
    if (rows.length === 0) return;
    yield rows;
    const link = /^<\?([^>]*)>; rel="next"$/.exec(response.headers.get("Link") ?? "");
    next = link && Object.fromEntries(new URLSearchParams(link[1]));
  }
}

async function send(method, path, { query = {}, body, key = sessionStorage.getItem(STORED) }) {
  const url = new URL(path, ADMIN);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { "X-Admin-Key": key ?? "" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const request = { method, headers, body: body && JSON.stringify(body), cache: "no-store" };
  const response = await fetch(url, request).catch(() => {
    throw new Problem({ detail: "The service does not answer." });
  });
  if (response.ok) return response;
  const fallback = { detail: `The service answered with status ${response.status}.` };
  throw new Problem({ status: response.status, ...await response.json().catch(() => fallback) });
}
