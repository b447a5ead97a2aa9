// Fetches what the page shows, again every few seconds while someone can see it. The address holds
// what is looked at, so that it can be shared.

import * as orders from "./orders.js";
import * as views from "./views.js";
import * as words from "./words.js";

const EVERY = 5_000;
// A search may read much of the ledger.
const SEARCH_EVERY = 30_000;
// A little longer than the daemon itself waits for its ledger.
const PATIENCE = 12_000;
const PAGE = 50;
const FILTERS = ["state", "search", "pipeline", "handler"];

const by = (id) => document.getElementById(id);
const form = by("filter");
let timer;
let current = null;
let searched = -Infinity;
let paused = false;
let last = null;
let condition = null;
let one = null;

/** What the address asks for. */
function wanted() {
  const query = new URLSearchParams(location.search);
  const state = Object.hasOwn(words.STATES, query.get("state")) ? query.get("state") : "open";
  const text = (name) => query.get(name)?.trim() ?? "";
  return {
    state, step: query.get("step"), after: query.get("after"),
    search: text("search"), pipeline: text("pipeline"), handler: text("handler"),
  };
}

function address(wants, more) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...wants, ...more })) {
    if (value && !(name === "state" && value === "open")) query.set(name, value);
  }
  const text = query.toString();
  return text ? `/?${text}` : "/";
}

/** The body of an answer, and the cursor of the next page; a refusal is an error with its reason. */
async function get(path, signal) {
  const limit = AbortSignal.timeout(PATIENCE);
  const response = await fetch(path, { signal: AbortSignal.any([limit, signal]) });
  const body = await response.json();
  if (!response.ok) {
    const refused = new Error(words.plain(body.error ?? `status ${response.status}`));
    refused.answered = true;
    throw refused;
  }
  const link = /^<([^>]*)>; rel="next"$/.exec(response.headers.get("link") ?? "");
  const next = link && new URL(link[1], location.origin).searchParams.get("after");
  return { body, next };
}

function say_error(element, error) {
  views.say(element, error ? error.message : "");
  views.show(element, Boolean(error));
}

async function load_steps(wants, now, signal) {
  const query = new URLSearchParams({ limit: PAGE });
  const { status } = words.STATES[wants.state];
  const parts = { status, ...wants, state: null, step: null };
  for (const [name, value] of Object.entries(parts)) if (value) query.set(name, value);
  try {
    const { body, next } = await get(`/steps?${query}`, signal);
    views.steps(body, now);
    say_error(by("steps-error"), null);
    views.show(by("none"), body.length === 0);
    views.say(by("none"), next ? "Nothing on this page; the next one may have some." :
      "The ledger has no such step.");
    views.say(by("steps-caption"), `${words.STATES[wants.state].label}, by token: ${body.length} ` +
      `on this page${next ? ", more follow" : ""}`);
    for (const [id, there, after] of [["first", wants.after, null], ["next", next, next]]) {
      views.show(by(id), Boolean(there));
      by(id).setAttribute("href", address(wants, { after }));
    }
    return body.length;
  } catch (error) {
    if (!error.answered) throw error;
    say_error(by("steps-error"), error);
    return null;
  }
}

async function load_one(wants, now, signal) {
  try {
    one = (await get(`/steps/${encodeURIComponent(wants.step)}`, signal)).body;
    views.step(one, now);
    views.orders(one, orders.given());
    say_error(by("one-error"), null);
    views.show(by("one-body"), true);
  } catch (error) {
    if (!error.answered) throw error;
    one = null;
    say_error(by("one-error"), error);
    views.show(by("one-body"), false);
  }
}

/** What the step's program printed last, once someone asks for it. */
async function load_log() {
  const { step } = wanted();
  const shown = Boolean(one) && orders.given();
  views.show(by("log"), shown);
  if (!shown || !by("log").open) return;
  try {
    const { lines } = await orders.send(`/steps/${encodeURIComponent(step)}/log`, {});
    if (wanted().step === step) views.log(lines);
  } catch (error) {
    views.log([], error.message);
  }
}

/** One round; `moved` if a person asked for something else than before. */
async function refresh(moved = false) {
  clearTimeout(timer);
  current?.abort();
  const round = new AbortController();
  current = round;
  const wants = wanted();
  if (moved) searched = -Infinity;
  try {
    const status = (await get("/status", round.signal)).body;
    const now = status.now ?? new Date().toISOString();
    views.overview(status);
    orders.offer(status);
    let found = null;
    if (wants.step) {
      await load_one(wants, now, round.signal);
      await load_log();
    } else if (moved || !wants.search || performance.now() - searched > SEARCH_EVERY) {
      found = await load_steps(wants, now, round.signal);
      searched = performance.now();
    }
    fresh(status, moved, found);
  } catch (error) {
    if (round.signal.aborted) return;
    stale(error);
  }
  if (!paused && !document.hidden) timer = setTimeout(refresh, EVERY);
}

function fresh(status, moved, found) {
  last = new Date();
  views.show(by("stale"), false);
  document.body.classList.remove("is-stale");
  views.say(by("updated"), `Updated ${last.toLocaleTimeString()}`);
  const before = condition;
  [condition] = views.condition(status);
  document.title = `${wanted().step ? words.plain(wanted().step) : "callbackd"}: ${condition}`;
  // Only what is news is spoken.
  if (moved && found !== null) views.say(by("announce"), `${found} steps shown`);
  else if (before !== condition) views.say(by("announce"), `The worker is: ${condition}`);
}

function stale(error) {
  const why = error.name === "TimeoutError" ? "answers too slowly" : "does not answer";
  const since = last ? `This is its state at ${last.toLocaleTimeString()}.` : "";
  const text = `The daemon ${why}. ${since} The page tries again every few seconds.`;
  views.say(by("stale"), text);
  views.show(by("stale"), true);
  document.body.classList.add("is-stale");
  document.title = "callbackd: no answer";
  condition = null;
  views.say(by("announce"), text);
}

/** Shows what the address asks for. */
function route(moved) {
  const wants = wanted();
  views.show(by("overview"), !wants.step);
  views.show(by("one"), Boolean(wants.step));
  if (moved) views.show(by("told"), false);
  for (const name of FILTERS) {
    if (document.activeElement !== form.elements[name]) form.elements[name].value = wants[name];
  }
  if (wants.step) {
    views.say(by("one-title"), `Step ${words.plain(wants.step)}`);
    views.show(by("one-body"), false);
    if (moved) by("one-title").focus();
  } else {
    by("back").setAttribute("href", address(wants));
  }
  refresh(moved);
}

/** What an order says of itself before it is given. */
function order_of({ order, things, name }) {
  const { step } = wanted();
  const about = words.plain(step ?? name);
  const at = `/steps/${encodeURIComponent(step ?? "")}`;
  const over = `/${things}/${encodeURIComponent(name ?? "")}/${order}`;
  const kind = things === "queues" ? "queue" : "handler";
  return {
    complete: {
      title: `Complete the step ${about}`, path: `${at}/complete`, field: "outputs",
      text: "It succeeds, with these outputs. The first answer counts, and cannot be changed.",
    },
    fail: {
      title: `Fail the step ${about}`, path: `${at}/complete`, field: "failure",
      text: "It fails, and with it the execution of its pipeline.",
    },
    retry: {
      title: `Retry the step ${about} now`, path: `${at}/retry`,
      text: "It does not wait for its next attempt any more.",
    },
    pause: {
      title: `Pause the ${kind} ${about}`, path: over,
      text: things === "queues"
        ? "This worker receives nothing more from it until it is resumed. Steps in hand go on."
        : "This worker starts no more runs of it until it is resumed. What runs goes on.",
    },
    resume: {
      title: `Resume the ${kind} ${about}`, path: over,
      text: "It works as usual again, also if its steps had failed.",
    },
    drain: {
      title: "Drain this worker", path: "/drain",
      text: "It starts no more steps, finishes those in hand, and ends. What restarts it, such " +
        "as systemd, starts it again.",
    },
  }[order];
}

function go(to, target) {
  history.pushState(null, "", to);
  route(true);
  if (!wanted().step) by(target).focus({ preventScroll: target === "main" });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
  if (!link || !plain || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"), link.id === "home" || link.id === "back" ? "main" : "steps-title");
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  history.pushState(null, "", address(Object.fromEntries(new FormData(form))));
  route(true);
});
form.elements.state.addEventListener("change", () => form.requestSubmit());
by("pause").addEventListener("click", () => {
  paused = !paused;
  by("pause").setAttribute("aria-pressed", String(paused));
  refresh();
});
for (const name of ["arguments", "checkpoint"]) {
  by(name).addEventListener("toggle", () => {
    if (one && by(name).open) {
      views.say(by(name).querySelector("pre"), words.pretty(one[name]));
    }
  });
}
by("log").addEventListener("toggle", load_log);
addEventListener("popstate", () => route(true));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!paused) refresh();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-order]");
  if (button) orders.ask(order_of(button.dataset));
});
orders.begin((told) => {
  views.say(by("told"), told);
  views.show(by("told"), told !== "");
  if (told) views.say(by("announce"), told);
  refresh();
});
for (const [name, { label }] of Object.entries(words.STATES)) {
  form.elements.state.append(new Option(label, name));
}
route(false);
