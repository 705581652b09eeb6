// An agent in Node that makes requests in every way that Node has, and prints what it got as one line of JSON. It knows
// nothing about payments or proxies.
//
//   node requests.mjs HTTPS_ORIGIN HTTP_ORIGIN [only|except WAY...]
import http from "node:http";
import https from "node:https";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const [secure, plain, mode, ...named] = isMainThread ? process.argv.slice(2) : workerData;

const fetched = async (url, options) => {
  const response = await fetch(url, options);
  return { status: response.status, body: await response.text() };
};

const requested = (module, url, options = {}, body) =>
  new Promise((resolve, reject) => {
    const request = module.request(url, options, async (response) => {
      let text = "";
      for await (const part of response.setEncoding("utf8")) text += part;
      resolve({ status: response.statusCode, body: text });
    });
    request.on("error", reject);
    request.end(body);
  });

// The site never ends this answer.
const timedOut = (module, site) =>
  new Promise((resolve) => {
    const request = module.get(`${site}/endless`, { timeout: 300 }, (response) => {
      response.resume().on("error", (error) => resolve(["timeout", error.code]));
    });
    request.on("timeout", () => request.destroy()).on("error", () => {});
  });

const own = new https.Agent({ keepAlive: true });
const long = "0123456789abcdef".repeat(20_000);

const ways = {
  fetch: () => fetched(`${secure}/fetch`),
  fetchAgain: () => fetched(`${secure}/fetch-again`),
  fetchPlain: () => fetched(`${plain}/fetch-plain`),
  fetchAddress: () => fetched(`${secure.replace("localhost", "127.0.0.1")}/fetch-address`),
  fetchRequest: () => fetched(new Request(`${secure}/fetch-request`, { headers: { "x-own": "1" } })),
  fetchPost: () => fetched(`${secure}/fetch-post`, { method: "POST", body: long }),
  fetchUpload: () => {
    const parts = ["a".repeat(70_000), "b", "c".repeat(70_000)].map((part) => new TextEncoder().encode(part));
    const body = new ReadableStream({ pull: (to) => (parts.length > 0 ? to.enqueue(parts.shift()) : to.close()) });
    return fetched(`${secure}/fetch-upload`, { method: "POST", body, duplex: "half" });
  },
  fetchStream: async () => {
    // The site sends each part after the request for the one before it, so a whole answer would never come.
    const response = await fetch(`${secure}/stream`);
    const parts = [];
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
      parts.push(part);
      await fetched(`${secure}/next`);
    }
    return { status: response.status, parts };
  },
  fetchAbort: async () => {
    const aborter = new AbortController();
    const response = await fetch(`${secure}/endless`, { signal: aborter.signal });
    const reader = response.body.getReader();
    await reader.read();
    aborter.abort();
    return reader.read().then(() => "went on", (error) => error.name);
  },
  fetchMany: async () => {
    const all = await Promise.all(Array.from({ length: 20 }, (_, n) => fetched(`${secure}/many-${n}`)));
    return all.map((one) => one.status);
  },
  https: () => requested(https, `${secure}/https`),
  httpsAgain: () => requested(https, `${secure}/https-again`),
  http: () => requested(http, `${plain}/http`),
  httpsPost: () => requested(https, `${secure}/https-post`, { method: "POST" }, long),
  httpsNoAgent: () => requested(https, `${secure}/https-no-agent`, { agent: false }),
  httpsOwnAgent: () => requested(https, `${secure}/https-own-agent`, { agent: own }),
  httpsQueue: async () => {
    // One socket for all of them.
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    const ports = new Set();
    agent.on("free", (socket) => ports.add(socket.localPort));
    const all = [1, 2, 3].map((n) => requested(https, `${secure}/https-queue-${n}`, { agent }));
    const got = (await Promise.allSettled(all)).map((one) => one.reason?.message ?? one.value.status);
    await new Promise(setImmediate);
    const left = Object.keys(agent.requests).length + Object.keys(agent.sockets).length;
    agent.destroy();
    return { got, left, ports: ports.size };
  },
  httpsTimeout: () => timedOut(https, secure),
  httpTimeout: () => timedOut(http, plain),
  httpsAbort: () =>
    new Promise((resolve) => {
      const request = https.get(`${secure}/endless`, (response) => {
        response.on("error", (error) => resolve(error.code));
        response.once("data", () => request.destroy());
      });
    }),
  worker: () =>
    new Promise((resolve, reject) => {
      const data = [secure, plain, "only", "fetch", "https"];
      const worker = new Worker(new URL(import.meta.url), { workerData: data });
      worker.once("message", resolve).once("error", reject);
    }),
};

const got = {};
for (const [way, go] of Object.entries(ways)) {
  if (mode !== undefined && named.includes(way) !== (mode === "only")) continue;
  try {
    got[way] = await go();
  } catch (error) {
    got[way] = { error: error.message, cause: error.cause?.code ?? error.cause?.message ?? error.code };
  }
}
if (isMainThread) console.log(JSON.stringify(got));
else parentPort.postMessage(got);
