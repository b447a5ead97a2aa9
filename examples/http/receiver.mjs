// A service for steps of the type `http`, in Node's standard library alone.
//
//     SECRET_FILE=secret node receiver.mjs 8080
//
// It checks the signature, and answers each step at once. service.py shows more: work that goes on,
// cleanups, and requests that come twice.
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

const WINDOW = 300; // seconds: how old a request may be, and how far the clocks may differ
const LARGEST = 4 << 20; // bytes: a message has at most 1 MiB, and a checkpoint 256 KiB

/** The keys that are accepted, one a line: two overlap while callbackd changes to the new one. */
const secrets = () => readFileSync(process.env.SECRET_FILE, "utf8").split("\n").filter(Boolean);

/** Whether a header Callbackd-Signature says that someone with one of the keys sent this, lately. */
export function isSigned(header, method, path, body, keys, now = Date.now() / 1000) {
  const parts = (header ?? "").split(",").map((part) => part.split("="));
  const times = parts.filter(([name, value]) => name === "t" && /^\d{1,12}$/.test(value ?? ""));
  if (times.length !== 1 || Math.abs(now - Number(times[0][1])) > WINDOW) return false;
  const wanted = keys.map((key) =>
    createHmac("sha256", key).update(`${times[0][1]}\n${method}\n${path}\n`).update(body).digest(),
  );
  const given = parts
    .filter(([name, value]) => name === "v1" && /^[0-9a-f]{64}$/.test(value ?? ""))
    .map(([, value]) => Buffer.from(value, "hex"));
  // timingSafeEqual takes as long for a wrong signature as for a right one.
  return wanted.some((one) => given.some((other) => timingSafeEqual(one, other)));
}

async function read(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > LARGEST) throw new Error("the request is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function answer(request, response) {
  const body = await read(request);
  const signature = request.headers["callbackd-signature"];
  if (!isSigned(signature, request.method, request.url, body, secrets())) {
    return [401, { reason: "the signature is missing, wrong or too old" }];
  }
  const step = JSON.parse(body);
  return [200, { outputs: { greeting: `hello, ${step.arguments.name}` } }];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = createServer(async (request, response) => {
    const [status, body] = await answer(request, response).catch((error) => [
      500,
      { reason: String(error) },
    ]);
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  });
  server.listen(Number(process.argv[2]), "127.0.0.1", () =>
    console.log(`listening on ${server.address().port}`),
  );
}
