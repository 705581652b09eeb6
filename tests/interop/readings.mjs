// Says which requests the reference servers read as a payment, from the bytes on the wire: Node's own HTTP/1.1 and
// HTTP/2 (cleartext) parsers, then the parsers of mppx, @x402/core, @x402/express and x402-express.
//
//   node readings.mjs
//
// Prints one line of JSON with the two ports, then answers every request with JSON that names the readers that found a
// payment. Runs until its standard input closes.
import { createServer } from "node:http";
import { createServer as createHttp2Server } from "node:http2";
import { x402HTTPResourceServer } from "@x402/core/server";
import { ExpressAdapter } from "@x402/express";
import express from "express";
import { Request as MppRequest, Transport } from "mppx/server";
import { createContext, getX402Credential } from "./node_modules/mppx/dist/integrations/x402/Negotiator.js";

process.stdin.on("end", () => process.exit(0)).on("error", () => process.exit(0)).resume();
console.warn = () => {};

/** A credential that was found but could not be decoded was found all the same. */
function finds(transport, request) {
  try {
    return transport.getCredential(request) !== null;
  } catch {
    return true;
  }
}

/** The readers that take a Fetch request. */
function fetchReaders(incoming, outgoing) {
  const request = MppRequest.fromNodeListener(incoming, outgoing);
  const { adapter } = createContext(request);
  return {
    "mppx": finds(Transport.http(), request),
    "mppx with requiresAuth": finds(Transport.http({ requiresAuth: true }), request),
    "mppx for x402": Boolean(getX402Credential(request)),
    "@x402/core": x402HTTPResourceServer.prototype.extractPayment.call({}, adapter) !== null,
  };
}

/** The readers that take a request of Express, which speaks HTTP/1.1 only. */
function expressReaders(request) {
  const adapter = new ExpressAdapter(request);
  return {
    "@x402/express": Boolean(adapter.getHeader("payment-signature") || adapter.getHeader("x-payment")),
    "x402-express": Boolean(request.header("X-PAYMENT")),
  };
}

function answer(outgoing, readers) {
  const found = Object.keys(readers).filter((name) => readers[name]);
  outgoing.writeHead(200, { "content-type": "application/json" });
  outgoing.end(JSON.stringify(found));
}

const app = express();
app.use((request, response) => answer(response, { ...fetchReaders(request, response), ...expressReaders(request) }));
const h1 = createServer(app).listen(0, "127.0.0.1");
const h2 = createHttp2Server((request, response) => answer(response, fetchReaders(request, response)));
h2.listen(0, "127.0.0.1");
await Promise.all([h1, h2].map((server) => server.listening || new Promise((resolve) => server.once("listening", resolve))));
console.log(JSON.stringify({ h1: h1.address().port, h2: h2.address().port }));
