// Signing in, views and their refresh.

import { isSignedIn, signIn, signOut } from "./api.js";
import { Audit } from "./audit.js";
import { announce, fill, h } from "./dom.js";
import { KeyDetails } from "./key.js";
import { Keys } from "./keys.js";
import { Locks } from "./locks.js";
import { Orgs } from "./orgs.js";
import { Overview } from "./overview.js";

const VIEWS = {
  overview: () => new Overview(),
  keys: (org) => new Keys(org),
  key: (id) => new KeyDetails(id),
  orgs: () => new Orgs(),
  locks: () => new Locks(),
  audit: () => new Audit(),
};

const [main, navigation, controls, live] =
  ["main", "navigation", "controls", "live"].map((id) => document.getElementById(id));

/** The view in `main`, its heading and the line for problems. */
let view, heading, problem;
let timer;

/** Shows the view that the address names. */
async function showView() {
  close();
  navigation.hidden = controls.hidden = !isSignedIn();
  if (!isSignedIn()) return showSignIn();
  const [name, argument = ""] = location.hash.slice(1).split("/");
  const wanted = Object.hasOwn(VIEWS, name) ? name : "overview";
  markCurrent(wanted === "key" ? "keys" : wanted);
  view = VIEWS[wanted](decoded(argument));
  view.onchange = refresh;
  heading = h("h1", { tabindex: "-1" });
  problem = h("p", { class: "problem", role: "alert" });
  fill(main, heading, problem, view.root);
  showTitle();
  await refresh();
}

/** A text of an address, as it is if it is not encoded. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function close() {
  clearTimeout(timer);
  view?.close?.();
  view = undefined;
}

function markCurrent(name) {
  for (const link of navigation.querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function showTitle() {
  if (heading.textContent !== view.title) fill(heading, view.title);
  document.title = `${heading.textContent} · KeyGuard`;
}

/** Loads the current view again, and once more after its interval. */
async function refresh() {
  clearTimeout(timer);
  const current = view;
  if (!current) return;
  try {
    await current.refresh();
    if (current !== view) return;
    fill(problem);
    showTitle();
  } catch (error) {
    if (current !== view) return;
    if (error.status === 401) return leave("The admin key is no longer accepted.");
    fill(problem, error.message);
  }
  // Another refresh may have begun meanwhile.
  clearTimeout(timer);
  if (current.interval) timer = setTimeout(refreshIfLive, current.interval);
}

function refreshIfLive() {
  if (live.checked && !document.hidden) return refresh();
  timer = setTimeout(refreshIfLive, 1_000);
}

function leave(message) {
  signOut();
  announce(message);
  return showView();
}

function showSignIn() {
  const id = "admin-key";
  const problem = h("p", { class: "problem", role: "alert" });
  const input = h("input", { id, type: "password", required: true, autocomplete: "off", "aria-describedby": "admin-key-hint" });
  const submit = h("button", { type: "submit", class: "primary" }, "Sign in");
  const send = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await signIn(input.value.trim());
      await showView();
      heading.focus();
    } catch (error) {
      fill(problem, error.message);
      input.setAttribute("aria-invalid", "true");
      input.focus();
    } finally {
      submit.disabled = false;
    }
  };
  fill(main, h("form", { class: "sign-in panel", onsubmit: send },
    h("h1", {}, "Sign in"),
    h("label", { for: id }, "Admin key"),
    input,
    h("p", { class: "hint", id: "admin-key-hint" },
      "The command ", h("code", {}, "keyguard admin-key"), " prints it. It is kept for this tab only."),
    problem,
    submit));
  document.title = "Sign in · KeyGuard";
  input.focus();
}

addEventListener("hashchange", async () => {
  await showView();
  heading?.focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("refresh").addEventListener("click", refresh);
document.getElementById("sign-out").addEventListener("click", () => leave(""));
showView();
