// What the page shows. Elements are changed only where their content has, so that focus, selection
// and scroll position survive a refresh.

import * as words from "./words.js";

const by = (id) => document.getElementById(id);

/** Sets the text of an element that has no children. */
export function say(element, text) {
  const node = element.firstChild;
  if (node?.nodeType === Node.TEXT_NODE) {
    if (node.data !== text) node.data = text;
  } else if (text !== "") {
    element.textContent = text;
  }
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

function mark(element, name) {
  if (element.className !== name) element.className = name;
}

/** Makes the children of `parent` those of `items`, in order, and keeps those with the same key. */
function keyed(parent, items, key, make, fill) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const kept = items.map((item) => old.get(String(key(item))));
  for (const child of old.values()) {
    if (kept.includes(child)) continue;
    const focused = child.contains(document.activeElement);
    child.remove();
    if (focused) parent.closest("section")?.querySelector("h2").focus({ preventScroll: true });
  }
  let place = parent.firstElementChild;
  items.forEach((item, at) => {
    const child = kept[at] ?? make(item);
    child.dataset.key = String(key(item));
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, item);
  });
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** A row whose first cell is its header; `link` makes that a link. */
function row(columns, link) {
  const made = element("tr");
  columns.forEach((column, at) => {
    const cell = element(at === 0 ? "th" : "td", column);
    if (at === 0) {
      cell.scope = "row";
      if (link) cell.append(element("a"));
    }
    made.append(cell);
  });
  return made;
}

/** Shows the orders of the page, or none of them. */
export function acts(shown) {
  for (const cell of document.querySelectorAll(".orders")) show(cell, shown);
}

/** The button that pauses what a row is about, or resumes it. */
function pausing(cell, things, name, label, paused) {
  if (!cell.firstChild) {
    cell.append(element("button"));
    cell.firstChild.type = "button";
  }
  const button = cell.firstChild;
  const order = paused ? "resume" : "pause";
  Object.assign(button.dataset, { order, things, name });
  say(button, paused ? "Resume…" : "Pause…");
  button.setAttribute("aria-label", `${paused ? "Resume" : "Pause"} ${words.plain(label)}`);
}

const cells = (made, texts) => texts.forEach((text, at) => say(made.cells[at], text));
const step_link = (token) => `/?${new URLSearchParams({ step: token })}`;

function linked(made, token) {
  const link = made.cells[0].firstChild;
  say(link, words.plain(token));
  const href = token ? step_link(token) : "/";
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
}

const sum = (queues, name) => queues.reduce((all, queue) => all + queue[name], 0);
const count = (number) => number.toLocaleString("en");

/** How the worker is, for the badge and the announcements. */
export function condition(status) {
  if (!status.alive) return ["Stuck", "bad"];
  if (status.draining) return ["Draining", "warn"];
  if (!status.worker) return ["Starting", "warn"];
  return status.ready ? ["Ready", "good"] : ["Not ready", "bad"];
}

export function overview(status) {
  const [says, how] = condition(status);
  say(by("state"), says);
  mark(by("state"), `badge ${how}`);
  const who = status.worker ? `worker ${words.plain(status.worker)}, ` : "";
  say(by("who"), `${who}version ${words.plain(status.version)}`);
  keyed(by("checks"), status.checks, (it) => it.name, check, (made, it) => {
    mark(made, it.ok ? "good" : "bad");
    [it.ok ? "ok" : "failing", words.plain(it.name), words.plain(it.detail)]
      .forEach((text, at) => say(made.children[at], text));
  });
  const queues = status.queues ?? [];
  counts(queues);
  queue_rows(queues, status.now);
  handler_rows(status.handlers ?? []);
  endings(status.endings ?? [], status.now);
  show(by("fleet"), Boolean(status.workers));
  keyed(by("workers"), status.workers ?? [], (it) => it, () => element("li"), (made, it) =>
    say(made, `${words.plain(it)}${it === status.worker ? " (this worker)" : ""}`));
}

function check() {
  const made = element("li");
  made.append(element("span", "mark"), element("strong"), element("span"));
  return made;
}

function counts(queues) {
  const items = [
    ["running", "Running", sum(queues, "running"), `of ${count(sum(queues, "concurrency"))}`],
    ["waiting", "Waiting for a slot", sum(queues, "queued"), ""],
    ["deferred", "Deferred", sum(queues, "deferred"), ""],
    ["owed", "Owed stops", sum(queues, "owed"), ""],
    ["unreported", "Unreported", sum(queues, "unreported"), ""],
  ];
  const make = ([state]) => {
    const made = element("li");
    const link = element("a");
    link.href = `/?${new URLSearchParams({ state })}`;
    link.append(element("span", "big"), element("span"), element("span"));
    made.append(link);
    return made;
  };
  keyed(by("counts"), items, ([state]) => state, make, (made, [, label, number, of]) => {
    const [big, extra, name] = made.firstChild.children;
    say(big, count(number));
    say(extra, of ? ` ${of} ` : " ");
    say(name, label);
  });
}

const N = "number";
const QUEUE = ["", "", N, N, N, N, N, N, N, N, "note", "orders"];

function queue_rows(queues, now) {
  keyed(by("queues"), queues, (it) => it.url, () => row(QUEUE), (made, it) => {
    const old = (number, since) =>
      since ? `${count(number)}, oldest ${words.span(words.between(since, now))}` : count(number);
    const sqs = it.backlog;
    const told = (number) => (typeof number === "number" ? count(number) : "unknown");
    const dead = sqs?.dead_letters === "none" ? "no queue" : told(sqs?.dead_letters);
    cells(made, [
      words.plain(it.name),
      words.polling(it),
      `${count(it.running)} / ${count(it.concurrency)}`,
      count(it.queued),
      count(it.deferred),
      old(it.owed, it.oldest_owed),
      old(it.unreported, it.oldest_unreported),
      told(sqs?.visible),
      told(sqs?.in_flight),
      dead,
      sqs ? `${words.span(sqs.seconds_old)} ago${sqs.error ? `: ${words.plain(sqs.error)}` : ""}`
        : "not yet",
    ]);
    mark(made.cells[1], it.unpolled ? "attention" : "");
    mark(made.cells[6], it.unreported ? "number attention" : N);
    mark(made.cells[9], sqs?.dead_letters > 0 ? "number attention" : N);
    // A pause by its breakers ends with an order to resume it, too.
    pausing(made.cells[11], "queues", it.url, it.name, ["order", "breaker"].includes(it.unpolled));
  });
}

function handler_rows(handlers) {
  show(by("all-handlers"), handlers.length > 0);
  keyed(by("handlers"), handlers, (it) => it.name, () => row(["", "", "orders"]), (made, it) => {
    cells(made, [words.plain(it.name), words.starting(it)]);
    mark(made.cells[1], it.unstarted ? "attention" : "");
    pausing(made.cells[2], "handlers", it.name, it.name, Boolean(it.unstarted));
  });
}

const ENDING = ["token", "", "", "", N, N, "wide"];

function endings(all, now) {
  show(by("no-endings"), all.length === 0);
  const key = (it) => `${it.token} ${it.at}`;
  keyed(by("endings"), all, key, () => row(ENDING, true), (made, it) => {
    linked(made, it.token);
    [
      words.ending_of(it.ending),
      words.pipeline(it.execution),
      words.plain(it.handler ?? "none"),
      `${words.span(words.between(it.at, now))} ago`,
      words.span(words.between(it.first_seen, it.at)),
      words.plain(it.reason),
    ].forEach((text, at) => say(made.cells[at + 1], text));
    mark(made.cells[1], it.ending === "failure" ? "attention" : "");
  });
}

const STEP = ["token", "", "", "", N, N, "progress", N, "wide"];

/** The rows of a page of steps. */
export function steps(found, now) {
  const make = () => {
    const made = row(STEP, true);
    const bar = element("progress");
    bar.hidden = true;
    bar.setAttribute("aria-label", "Progress");
    made.cells[6].append(bar, element("span"));
    return made;
  };
  keyed(by("steps"), found, (it) => it.token, make, (made, it) => {
    linked(made, it.token);
    const texts = [
      words.state(it),
      words.pipeline(it.execution),
      words.plain(it.handler ?? (it.error ? "" : "none")),
      it.first_seen ? words.span(words.between(it.first_seen, now)) : "",
      it.attempt === undefined ? "" : count(it.attempt),
      null,
      words.left(it, now),
      words.detail(it),
    ];
    texts.forEach((text, at) => text === null || say(made.cells[at + 1], text));
    const [bar, text] = made.cells[6].children;
    const fraction = it.progress?.fraction;
    show(bar, typeof fraction === "number");
    if (typeof fraction === "number" && bar.value !== fraction) bar.value = fraction;
    say(text, words.progress(it.progress));
  });
}

/** What happened to the step; a repeated event has the time of its last. */
function happened(events, now) {
  show(by("history"), events.length > 0);
  const numbered = events.map((event, place) => ({ ...event, place }));
  const key = (it) => `${it.at} ${it.event} ${it.place}`;
  keyed(by("events"), numbered, key, () => row(["", N, "", N, "wide"]), (made, it) => cells(made, [
    time(it.at),
    `${words.span(words.between(it.at, now))} ago`,
    words.ending_of(it.event),
    count(it.times ?? 1),
    words.plain(it.detail),
  ]));
}

const time = (at) => at && words.plain(at).replace(/\.\d+Z$/, "Z");

/** The orders that the step may take as it is; none if the page gives none. */
export function orders(it, acts) {
  const takes = {
    complete: it.status === "deferred",
    fail: it.status === "deferred",
    retry: it.status === "waiting",
  };
  const buttons = [...by("orders").querySelectorAll("button")];
  for (const button of buttons) {
    const focused = button === document.activeElement;
    show(button, takes[button.dataset.order]);
    if (focused && button.hidden) by("one-title").focus({ preventScroll: true });
  }
  show(by("orders"), acts && buttons.some((button) => !button.hidden));
}

/** The lines that a program printed, or why there are none. */
export function log(lines, why = "This worker has none: the program has printed nothing yet, or " +
  "ran on another worker, before its last start, or long ago.") {
  const text = lines.map((it) =>
    `${time(it.at)} ${it.attempt} ${words.plain(it.stream)} | ${words.plain(it.text)}`);
  const shown = by("log").querySelector("pre");
  say(by("log-none"), why);
  show(by("log-none"), lines.length === 0);
  say(shown, text.join("\n"));
  show(shown, lines.length > 0);
}

/** A step with all that is known of it; `now` is the daemon's time. */
export function step(it, now) {
  const ago = (at) => at && `${time(at)} (${words.span(words.between(at, now))} ago)`;
  const facts = [
    ["State", words.state(it)],
    ["Pipeline", words.pipeline(it.execution)],
    ["Execution", words.plain(it.execution)],
    ["Queue", words.plain(it.queue)],
    ["Handler", words.plain(it.handler ?? "none")],
    ["Key", words.plain(it.key)],
    ["Attempt", String(it.attempt)],
    ["Progress", words.progress(it.progress)],
    ["Last progress", ago(it.progressed_at)],
    ["First seen", ago(it.first_seen)],
    ["Started here", ago(it.started_at)],
    ["Time limit", it.deadline && `${time(it.deadline)} (${words.left(it, now) || "no longer runs"})`],
    ["Not before", time(it.not_before)],
    ["Stop requested", ago(it.stop_requested?.at)],
    ["Owner", words.plain(it.owner)],
    ["Last error", words.plain(it.last_error)],
    ["Crashes of its worker", it.crashes ? String(it.crashes) : ""],
    ["Ended as", it.ending && words.ending_of(it.ending)],
    ["Outcome", words.outcome(it.outcome)],
    ["Concluded", ago(it.concluded_at)],
    ["Settled", ago(it.settled_at)],
  ].filter(([, text]) => text);
  const make = () => {
    const made = element("div");
    made.append(element("dt"), element("dd"));
    return made;
  };
  keyed(by("facts"), facts, ([name]) => name, make, (made, [name, text]) => {
    say(made.firstChild, name);
    say(made.lastChild, text);
  });
  happened(Array.isArray(it.history) ? it.history : [], now);
  for (const name of ["arguments", "checkpoint"]) {
    const known = it[name] !== null && it[name] !== undefined;
    show(by(name), known);
    // Large ones cost nothing until someone opens them.
    if (known && by(name).open) say(by(name).querySelector("pre"), words.pretty(it[name]));
  }
}
