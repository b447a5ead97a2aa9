// Orders: what a person who has the token has the worker do. The token is sent in a header, by this
// script alone: no cookie is involved, so no other page can give orders in this one's name.

import * as views from "./views.js";
import * as words from "./words.js";

const KEPT = "callbackd.token";
// A little longer than the daemon itself waits for its ledger.
const PATIENCE = 12_000;
const MOST_OUTPUTS = 50;

const by = (id) => document.getElementById(id);
const submit = (dialog) => dialog.querySelector("button[type=submit]");
let offered = false;
let asked = null;
let told = () => {};

const token = () => sessionStorage.getItem(KEPT);

/** Whether orders are given here: the worker takes them, and there is a token. */
export const given = () => offered && Boolean(token());

/** Shows which orders there are, as `/status` says. */
export function offer(status) {
  offered = status.actions === true;
  views.show(by("operator"), offered);
  views.say(by("operator"), token() ? "Operator: token set…" : "Operator…");
  views.show(by("drain"), given() && !status.draining);
  views.show(by("no-actions"), !offered);
  views.acts(given());
}

/** A request with the token; a refusal is an error with its reason. */
export async function send(path, options) {
  const response = await fetch(path, {
    ...options,
    signal: AbortSignal.timeout(PATIENCE),
    headers: { authorization: `Bearer ${token()}`, "content-type": "application/json" },
  });
  if (response.ok && response.headers.get("content-type") !== "application/json") {
    // It would tell how a drain goes on, which the page shows by itself.
    await response.body.cancel();
    return {};
  }
  const body = await response.json();
  if (response.ok) return body;
  if (response.status === 401) sessionStorage.removeItem(KEPT);
  throw new Error(words.plain(body.error ?? `status ${response.status}`));
}

function say_error(id, input, text) {
  views.say(by(id), text);
  views.show(by(id), text !== "");
  if (text) by(input).setAttribute("aria-invalid", "true");
  else by(input).removeAttribute("aria-invalid");
}

const FIELDS = {
  outputs: { label: "Outputs, as a JSON object", start: "{}", body: outputs },
  failure: { label: "Why it fails; SageMaker gets 256 characters", start: "", body: failure },
};

/** The body of an answer with these outputs: their text as it is, which keeps all digits. */
function outputs(text) {
  let all;
  try {
    all = JSON.parse(text);
  } catch (error) {
    throw new Error(`That is no JSON: ${error.message}`);
  }
  if (typeof all !== "object" || all === null || Array.isArray(all)) {
    throw new Error("Outputs are a JSON object, such as {\"score\": 0.97}.");
  }
  for (const [name, value] of Object.entries(all)) {
    if (value === null || typeof value === "object") {
      throw new Error(`The output ${words.plain(name)} is no text, number, true or false.`);
    }
  }
  if (Object.keys(all).length > MOST_OUTPUTS) {
    throw new Error(`A step has at most ${MOST_OUTPUTS} outputs.`);
  }
  return `{"outputs": ${text}}`;
}

function failure(text) {
  if (!text.trim()) throw new Error("Say why it fails.");
  return JSON.stringify({ failure: text });
}

/** Asks whether an order is meant, and then gives it. */
export function ask(order) {
  asked = order;
  const field = FIELDS[order.field];
  views.say(by("ask-title"), order.title);
  views.say(by("ask-text"), order.text);
  views.show(by("ask-label"), Boolean(field));
  views.say(by("ask-label").querySelector("span"), field?.label ?? "");
  by("ask-input").value = field?.start ?? "";
  say_error("ask-error", "ask-input", "");
  views.say(submit(by("ask")), order.title.split(" ")[0]);
  by("ask").showModal();
}

async function give(order, text) {
  const body = FIELDS[order.field]?.body(text);
  const answer = await send(order.path, { method: "POST", body });
  return words.plain(answer.done ?? `Done: ${order.title}.`);
}

async function confirmed() {
  const button = submit(by("ask"));
  button.disabled = true;
  try {
    const done = await give(asked, by("ask-input").value);
    by("ask").close();
    told(done);
  } catch (error) {
    const slow = error.name === "TimeoutError" || error.name === "TypeError";
    const why = "The daemon did not answer: look whether the order was carried out.";
    say_error("ask-error", "ask-input", slow ? why : error.message);
    if (!token()) told("");
  } finally {
    button.disabled = false;
  }
}

function entered() {
  const text = by("key-input").value.trim();
  if (!/^[\x21-\x7e]{16,}$/.test(text)) {
    say_error("key-error", "key-input", "A token has at least 16 letters, digits or signs.");
    return;
  }
  sessionStorage.setItem(KEPT, text);
  by("key").close();
  told("");
}

/** `tell` is called with the result of each order, and with "" if what is offered has changed. */
export function begin(tell) {
  told = tell;
  by("operator").addEventListener("click", () => {
    by("key-input").value = "";
    say_error("key-error", "key-input", "");
    views.show(by("key-forget"), Boolean(token()));
    by("key").showModal();
  });
  by("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEPT);
    by("key").close();
    told("");
  });
  for (const [id, then] of [["ask", confirmed], ["key", entered]]) {
    by(id).querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      then();
    });
    by(id).querySelector("[data-close]").addEventListener("click", () => by(id).close());
  }
}
