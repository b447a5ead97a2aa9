// Text of what the daemon says. All of it is for textContent.

// Characters that reorder, hide or break a line of text: control, bidirectional, zero width.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const escaped = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;

/** Untrusted text in one line, with unseen characters as escapes. */
export function plain(text) {
  return String(text ?? "").replace(UNSEEN, escaped);
}

/** A JSON value in indented lines, with unseen characters as escapes. */
export function pretty(value) {
  return JSON.stringify(value, null, 2).split("\n").map(plain).join("\n");
}

/** Seconds in at most two units. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (unit, large, per, small) =>
    `${Math.floor(whole / unit)} ${large} ${Math.floor((whole % unit) / per)} ${small}`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(60, "min", 1, "s");
  if (whole < 86400) return two(3600, "h", 60, "min");
  return two(86400, "d", 3600, "h");
}

/** Seconds from one RFC 3339 time to another; both are the daemon's. */
export function between(from, to) {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

export const STATES = {
  open: { label: "All that are not settled", status: "owed,claimed,waiting,deferred,concluded" },
  running: { label: "Running", status: "claimed" },
  waiting: { label: "Waiting", status: "waiting" },
  deferred: { label: "Deferred", status: "deferred" },
  owed: { label: "Owed stops", status: "owed" },
  unreported: { label: "Unreported", status: "concluded" },
  settled: { label: "Settled", status: "settled" },
  all: { label: "All", status: null },
};

const STATUS = {
  owed: "owed stop",
  claimed: "running",
  concluded: "unreported",
};

/** A step's state for people: the ledger's, and what is in progress if that says more. */
export function state(step) {
  if (step.error) return "damaged";
  const status = STATUS[step.status] ?? plain(step.status);
  const stop = step.stop_requested && !step.outcome ? ", stop requested" : "";
  const doing = step.activity;
  const says = doing && doing !== step.status && doing !== status && doing !== "idle";
  return `${status}${says ? `, ${plain(doing)}` : ""}${stop}`;
}

/** The pipeline's name in an execution's ARN. */
export function pipeline(execution) {
  return plain(String(execution ?? "").split("/")[1]);
}

/** `40 % epoch 4 of 10`. */
export function progress(of) {
  if (!of) return "";
  const known = typeof of.fraction === "number";
  const percent = known ? `${Math.round(Math.min(1, Math.max(0, of.fraction)) * 100)} %` : "";
  return [percent, plain(of.text)].filter(Boolean).join(" ");
}

/** What is left until the deadline. */
export function left(step, now) {
  if (!step.deadline || step.settled_at || step.outcome) return "";
  const seconds = between(now, step.deadline);
  return seconds < 0 ? "over" : span(seconds);
}

/** An outcome in one line. */
export function outcome(of) {
  if (!of) return "";
  if (typeof of.failure === "string") return plain(of.failure);
  const outputs = Object.entries(of.success ?? {});
  return outputs.map(([name, value]) => `${plain(name)}=${plain(value)}`).join(" ");
}

/** What else there is to say of a step in a list. */
export function detail(step) {
  if (step.error) return plain(step.error);
  const key = step.key && `key ${plain(step.key)}`;
  const ended = step.outcome || step.settled_at;
  const ending = ended && step.ending && ending_of(step.ending);
  return [key, ending, outcome(step.outcome), !ended && plain(step.last_error)]
    .filter(Boolean)
    .join(": ");
}

/** `settled_elsewhere` as words. */
export function ending_of(ending) {
  return plain(ending).replaceAll("_", " ");
}

/** Why no run of a handler is started, or that they are. */
export function starting(handler) {
  return {
    order: "paused by callbackd pause",
    breaker: "paused: its steps fail",
  }[handler.unstarted] ?? "started as steps come";
}

/** Why a queue is not polled, or that it is. */
export function polling(queue) {
  const why = {
    order: "paused by callbackd pause",
    breaker: "paused: its steps fail",
    limits: "waits: its handlers are full",
  }[queue.unpolled];
  if (why) return why;
  const ago = queue.polled_seconds_ago;
  return typeof ago === "number" ? `${span(ago)} ago` : "not yet";
}
