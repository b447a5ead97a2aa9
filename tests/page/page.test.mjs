// The status page in Debian's Chromium: what it shows, asks, and keeps while it refreshes.
// Run by tests/binary/page.rs, which starts the daemon: PAGE is its address, RUNNING and FAILED are
// tokens of its steps; 10,000 more are deferred. Screenshots are left in `shots/`.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const { PAGE, RUNNING, FAILED } = process.env;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const MARKUP = "<img src=x onerror=alert(1)>";
mkdirSync("shots", { recursive: true });

let browser;
before(async () => {
  const root = process.getuid() === 0;
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    chromiumSandbox: !root,
    args: FLAGS,
  });
});
after(() => browser?.close());

/** A page at `path` that has shown its first data; `strays` collects what it must not do. */
async function open(path = "", options = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
  const page = await context.newPage();
  const strays = [];
  page.on("console", (line) => strays.push(`console: ${line.type()} ${line.text()}`));
  page.on("pageerror", (error) => strays.push(`error: ${error}`));
  page.on("dialog", (dialog) => strays.push(`dialog: ${dialog.message()}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(PAGE)) strays.push(`request: ${request.url()}`);
  });
  if (options.clock) await page.clock.install();
  await page.goto(new URL(path, PAGE).href);
  await page.locator("#updated").filter({ hasText: "Updated" }).waitFor();
  const close = async () => {
    assert.deepEqual(strays, [], "no console line, script error, dialog or foreign request");
    await context.close();
  };
  return { page, strays, close };
}

const tokens = (page) => page.locator("#steps th").allTextContents();

/** What happens makes the page fetch its steps. */
async function fetched(page, act) {
  const answer = page.waitForResponse((response) => new URL(response.url()).pathname === "/steps");
  await act();
  await (await answer).finished();
  // The page handles the answer in tasks that are queued by now.
  await page.evaluate(() => new Promise((done) => setTimeout(done, 0)));
}

async function axe(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const told = violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html).slice(0, 3)]);
  assert.deepEqual(told, []);
}

test("a running step has its progress, a failed one its reason, a queue its figures", async () => {
  const { page, close } = await open();
  const row = page.locator("#steps tr", { hasText: RUNNING });
  if ((await row.count()) === 0) {
    await page.locator("select[name=state]").selectOption("running");
  }
  await row.waitFor();
  await row.getByText("40 % <b>epoch</b> 4 of 10").waitFor();
  assert.equal(await row.locator("progress").evaluate((bar) => bar.value), 0.4);
  const ending = page.locator("#endings tr", { hasText: FAILED });
  assert.match(await ending.textContent(), /failure/);
  assert.ok((await ending.textContent()).includes(MARKUP), "shown as the text that it is");
  const counts = await page.locator("#counts").textContent();
  assert.match(counts, /1 of 16 ?Running/);
  assert.match(counts, /10,000 ?Deferred/);
  assert.equal(await page.locator("#queues tr").count(), 1);
  assert.equal(await page.locator("#state").textContent(), "Ready");
  assert.equal(await page.locator("main img, main b").count(), 0);
  await close();
});

test("SQS is asked in the background, not for each request", async () => {
  const { page, close } = await open("", { clock: true });
  const in_flight = page.locator("#queues td:nth-child(9)");
  for (let round = 0; (await in_flight.textContent()) === "unknown" && round < 100; round += 1) {
    const answer = page.waitForResponse((response) => response.url().endsWith("/status"));
    await page.clock.runFor(5_000);
    await (await answer).finished();
  }
  assert.match(await in_flight.textContent(), /^\d+$/);
  assert.equal(await page.locator("#queues td:nth-child(10)").textContent(), "no queue");
  await close();
});

test("10,000 steps come in pages of 50, each once", async () => {
  const { page, close } = await open("?state=deferred");
  await page.locator("#next").waitFor();
  const first = await tokens(page);
  assert.equal(first.length, 50);
  await fetched(page, () => page.locator("#next").click());
  const second = await tokens(page);
  assert.equal(second.length, 50);
  assert.equal(new Set([...first, ...second]).size, 100);
  assert.equal(await page.evaluate(() => document.activeElement.id), "steps-title");
  assert.match(page.url(), /state=deferred&after=/);
  await fetched(page, () => page.goBack());
  assert.deepEqual(await tokens(page), first);
  await close();
});

test("steps are found by token, pipeline and key, and the address says so", async () => {
  const { page, close } = await open();
  const search = page.locator("input[name=search]");
  const find = async (text) => {
    await search.fill(text);
    await fetched(page, () => search.press("Enter"));
    return tokens(page);
  };
  assert.deepEqual(await find("order-07777"), ["defer07777"]);
  assert.deepEqual(await find("defer04242"), ["defer04242"]);
  assert.equal((await find("FRAUD")).length, 50);
  await find("price");
  await page.setViewportSize({ width: 1200, height: 860 });
  await page.screenshot({ path: "shots/search.png" });
  assert.deepEqual(await find("no such step"), []);
  assert.match(await page.locator("#none").textContent(), /no such step/);
  await find("order-07777");
  const { page: shared, close: done } = await open(new URL(page.url()).search);
  assert.deepEqual(await tokens(shared), ["defer07777"]);
  assert.equal(await shared.locator("input[name=search]").inputValue(), "order-07777");
  await done();
  await close();
});

test("a refresh keeps focus, selection and scroll position", async () => {
  const { page, close } = await open("?state=deferred", { clock: true });
  await page.locator("#steps a").nth(30).focus();
  const state = () => page.evaluate(() => ({
    focus: document.activeElement.textContent,
    selection: getSelection().toString(),
    scroll: scrollY,
    there: document.activeElement.isSameNode(globalThis.focused),
  }));
  await page.evaluate(() => {
    globalThis.focused = document.activeElement;
    getSelection().selectAllChildren(document.querySelectorAll("#steps td:last-child")[30]);
  });
  const held = await state();
  assert.ok(held.scroll > 0 && held.selection && held.there, JSON.stringify(held));
  await fetched(page, () => page.clock.runFor(5_000));
  assert.deepEqual(await state(), held);
  await close();
});

test("what lies behind a hidden tab or a pause is not asked for", async () => {
  const { page, close } = await open("", { clock: true });
  let asked = 0;
  page.on("request", () => { asked += 1; });
  const hide = (hidden) => page.evaluate((is) => {
    Object.defineProperty(document, "hidden", { value: is, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await page.clock.runFor(60_000);
  assert.equal(asked, 0);
  await fetched(page, () => hide(false));
  const pause = page.getByRole("button", { name: "Pause updates" });
  await fetched(page, () => pause.click());
  assert.equal(await pause.getAttribute("aria-pressed"), "true");
  asked = 0;
  await page.clock.runFor(60_000);
  assert.equal(asked, 0);
  await fetched(page, () => pause.click());
  await close();
});

test("a daemon that does not answer is told, with the time of what is shown", async () => {
  const { page, strays, close } = await open("", { clock: true });
  await page.route("**/status", (route) => route.abort());
  await page.clock.runFor(5_000);
  await page.locator("#stale").waitFor();
  const told = await page.locator("#stale").textContent();
  assert.match(told, /does not answer. This is its state at .*\d/);
  assert.equal(await page.locator("#announce").textContent(), told);
  assert.ok((await tokens(page)).length > 0, "what was known stays");
  await page.screenshot({ path: "shots/stale.png" });
  // The browser itself writes of the failed request.
  assert.ok(strays.every((stray) => /ERR_FAILED/.test(stray)), strays.join());
  strays.length = 0;
  await page.unroute("**/status");
  await fetched(page, () => page.clock.runFor(5_000));
  await page.locator("#stale").waitFor({ state: "hidden" });
  await close();
});

/** The daemon's own `/status`, changed by `change` on its way to the page. */
async function open_with(change) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
  const page = await context.newPage();
  await page.route("**/status", async (route) => {
    const response = await route.fetch();
    const status = await response.json();
    change(status);
    await route.fulfill({ response, json: status });
  });
  await page.goto(PAGE);
  await page.locator("#updated").filter({ hasText: "Updated" }).waitFor();
  return { page, close: () => context.close() };
}

test("a fleet's workers are listed, this one marked, and none of them is markup", async () => {
  const { page, close } = await open_with((status) => {
    status.worker = "host-2/0123abcd~2";
    status.workers = ["host-1/89abcdef", "host-2/0123abcd~2", MARKUP];
  });
  assert.deepEqual(await page.locator("#workers li").allTextContents(), [
    "host-1/89abcdef", "host-2/0123abcd~2 (this worker)", MARKUP,
  ]);
  assert.ok(await page.locator("#fleet").isVisible());
  assert.equal(await page.locator("main img").count(), 0);
  await axe(page);
  await page.screenshot({ path: "shots/fleet.png", fullPage: true });
  await close();
  const { page: alone, close: done } = await open_with(() => {});
  assert.ok(!(await alone.locator("#fleet").isVisible()), "a ledger of its own has no fleet");
  await done();
});

test("what impairs a worker is told: a drain, a failing check, dead letters, no right", async () => {
  const { page, close } = await open_with((status) => {
    const [queue] = status.queues;
    const named = (name, more) => ({ ...queue, name, url: `${queue.url}-${name}`, ...more });
    const counts = { seconds_old: 75, visible: 12, in_flight: 3, delayed: 0 };
    status.draining = true;
    status.checks.push({ name: "ledger", ok: false, detail: `no space: ${MARKUP}` });
    status.queues = [
      named("dead", { backlog: { ...counts, dead_letters: 1234 } }),
      named("denied", { backlog: { seconds_old: 5, error: "sqs:GetQueueAttributes is denied" } }),
      named("parked", { unpolled: "breaker", backlog: { ...counts, dead_letters: null } }),
      named("late", { owed: 2, oldest_owed: queue.now, unreported: 7, backlog: null }),
    ];
  });
  assert.equal(await page.locator("#state").textContent(), "Draining");
  assert.match(await page.title(), /Draining/);
  const check = page.locator("#checks li", { hasText: "no space" });
  assert.match(await check.textContent(), /failing/);
  const row = async (name) =>
    page.locator("#queues tr", { hasText: name }).locator("th, td").allTextContents();
  assert.deepEqual((await row("dead")).slice(7), ["12", "3", "1,234", "1 min 15 s ago"]);
  assert.match(await page.locator("#queues tr").first().locator("td").nth(8).getAttribute("class"),
    /attention/);
  assert.deepEqual((await row("denied")).slice(7), [
    "unknown", "unknown", "unknown", "5 s ago: sqs:GetQueueAttributes is denied",
  ]);
  assert.equal((await row("parked"))[9], "unknown");
  assert.match((await row("parked"))[1], /breaker|paused/i);
  assert.equal((await row("late"))[6], "7");
  assert.equal((await row("late"))[10], "not yet");
  assert.equal(await page.locator("main img").count(), 0);
  await axe(page);
  await page.screenshot({ path: "shots/impaired.png", fullPage: true });
  await close();
});

test("a step's history is told, oldest first, with how often and why", async () => {
  const { page, close } = await open(`?step=${FAILED}`);
  await page.locator("#events tr", { hasText: "reported" }).waitFor();
  const rows = await page.locator("#events tr").evaluateAll((rows) =>
    rows.map((row) => [2, 3, 4].map((column) => row.cells[column].textContent)));
  assert.deepEqual(rows,
    [["claimed", "1", ""], ["concluded", "1", "failure"], ["reported", "1", "failure"]]);
  await axe(page);
  await close();
});

test("a repeated event has its count, and what a handler says is text", async () => {
  const { page, close } = await open();
  await page.route(`**/steps/${FAILED}`, async (route) => {
    const response = await route.fetch();
    const step = await response.json();
    step.history = [{ at: step.first_seen, event: "report_refused", detail: MARKUP, times: 412 }];
    await route.fulfill({ response, json: step });
  });
  await page.locator("#endings a", { hasText: FAILED }).click();
  const row = page.locator("#events tr", { hasText: "report refused" });
  await row.getByText(MARKUP).waitFor();
  assert.equal(await row.locator("td").nth(2).textContent(), "412");
  await close();
});

test("a step has a page of its own, with its arguments on request", async () => {
  const { page, close } = await open("?search=defer00000");
  await page.locator("#steps a").first().click();
  await page.locator("#facts").getByText(MARKUP).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "one-title");
  assert.ok(await page.locator("#overview").isHidden());
  assert.equal(await page.locator("#arguments pre").textContent(), "");
  await page.locator("#arguments summary").click();
  const shown = page.locator("#arguments pre").filter({ hasText: "m-17" });
  await shown.waitFor();
  assert.equal(JSON.parse(await shown.textContent()).note, MARKUP);
  await axe(page);
  await page.screenshot({ path: "shots/step.png" });
  await page.locator("#back").click();
  await page.locator("#overview").waitFor();
  assert.match(page.url(), /search=defer00000/);
  await close();
});

test("a step that the ledger does not have is told as such", async () => {
  const { page, strays, close } = await open("?step=absent0000");
  assert.match(await page.locator("#one-error").textContent(), /has no step absent0000/);
  // The browser itself writes of the answer 404.
  assert.ok(strays.length > 0 && strays.every((stray) => /404/.test(stray)), strays.join());
  strays.length = 0;
  await close();
});

test("text that turns its direction is shown with escapes", async () => {
  const { page, close } = await open("?search=defer00001");
  await page.locator("#steps").getByText("key turned \\u{202e}round").waitFor();
  await close();
});

test("the keyboard alone reaches everything, and the first stop skips the head", async () => {
  const { page, close } = await open("?state=deferred");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const reached = new Set();
  for (let presses = 0; presses < 90; presses += 1) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() =>
      document.activeElement.name || document.activeElement.id || document.activeElement.href));
  }
  for (const wanted of ["state", "search", "pipeline", "handler", "clear", "next"]) {
    assert.ok(reached.has(wanted), `${wanted} of ${[...reached].join()}`);
  }
  await close();
});

for (const [name, path, options] of [
  ["light", "", { colorScheme: "light" }],
  ["dark", "", { colorScheme: "dark" }],
  ["narrow", "", { viewport: { width: 360, height: 740 } }],
  ["many", "?state=deferred", { colorScheme: "light" }],
]) {
  test(`axe-core finds nothing: ${name}`, async () => {
    const { page, close } = await open(path, options);
    await axe(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.ok(!wide, "the page itself does not scroll sideways");
    await page.screenshot({ path: `shots/${name}.png`, fullPage: name === "narrow" });
    await close();
  });
}

test("without JavaScript the page says so", async () => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(PAGE);
  assert.match(await page.locator("noscript").textContent(), /needs JavaScript/);
  await context.close();
});
