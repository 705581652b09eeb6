// Asks for each URL, and prints what a program can see: one line of JSON for each URL.
//
//   node clients.mjs fetch|https URL...
//
// A URL whose path begins with /post is asked with a POST of `abc`. `https` opens a tunnel by itself if HTTPS_PROXY is
// set, because Node 20 does not.
import http from "node:http";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";

const MILLISECONDS = 8000;
// They belong to one hop.
const isKept = (name) => !["connection", "keep-alive"].includes(name.toLowerCase());
const kept = (raw) => raw.filter((_, at) => isKept(raw[at - (at % 2)]));
const [, , library, ...urls] = process.argv;

async function withFetch(url, body) {
  const answer = await fetch(url, {
    method: body === undefined ? "GET" : "POST",
    body,
    signal: AbortSignal.timeout(MILLISECONDS),
  });
  const bytes = Buffer.from(await answer.arrayBuffer());
  return { status: answer.status, reason: answer.statusText, fields: [...answer.headers].filter(([name]) => isKept(name)), body: bytes.toString("latin1") };
}

function tunnel(url) {
  const proxy = new URL(process.env.HTTPS_PROXY);
  const login = Buffer.from(`${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`).toString("base64");
  const connect = http.request({
    host: proxy.hostname,
    port: proxy.port,
    method: "CONNECT",
    path: url.host,
    headers: { host: url.host, "proxy-authorization": `Basic ${login}` },
  });
  return new Promise((resolve, reject) => {
    connect.on("connect", (answer, socket) => resolve(socket));
    connect.on("error", reject);
    connect.end();
  });
}

async function connection(url) {
  const socket = process.env.HTTPS_PROXY ? await tunnel(url) : net.connect(url.port, url.hostname);
  return await new Promise((resolve, reject) => {
    const secure = tls.connect({ socket, servername: url.hostname }, () => resolve(secure));
    secure.on("error", reject);
  });
}

async function withHttps(text, body) {
  const url = new URL(text);
  const socket = await connection(url);
  // With an agent Node would ignore `createConnection`.
  const options = { method: body === undefined ? "GET" : "POST", timeout: MILLISECONDS, createConnection: () => socket };
  return await new Promise((resolve, reject) => {
    const interim = [];
    const request = https.request(url, options, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("error", reject);
      answer.on("end", () => resolve({
        version: answer.httpVersion,
        status: answer.statusCode,
        reason: answer.statusMessage,
        fields: kept(answer.rawHeaders),
        body: Buffer.concat(parts).toString("latin1"),
        trailers: answer.rawTrailers,
        complete: answer.complete,
        interim,
      }));
    });
    request.on("information", (info) => interim.push([info.statusCode, info.rawHeaders]));
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.on("error", reject);
    request.end(body);
  });
}

const ask = { fetch: withFetch, https: withHttps }[library];
for (const url of urls) {
  let result;
  try {
    result = await ask(url, url.includes("/post") ? "abc" : undefined);
  } catch (error) {
    result = { error: [error.name, error.code ?? null, error.cause?.name ?? null, error.cause?.code ?? null] };
  }
  console.log(JSON.stringify(result));
}
process.exit(0);
