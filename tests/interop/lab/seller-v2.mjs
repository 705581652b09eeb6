// An x402 v2 seller: express with the reference middleware, plus routes that behave as sellers in the wild do.
import { setTimeout as pause } from "node:timers/promises";
import express from "express";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { paymentMiddlewareFromHTTPServer, setSettlementOverrides, x402HTTPResourceServer, x402ResourceServer } from "@x402/express";
import { declareEip2612GasSponsoringExtension } from "@x402/extensions";
import { declarePaymentIdentifierExtension, PAYMENT_IDENTIFIER, paymentIdentifierResourceServerExtension } from "@x402/extensions/payment-identifier";
import { PAY_TO, TOKEN } from "./chain.mjs";
import { echo } from "./echo.mjs";
import { idempotent } from "./idempotent.mjs";
import { seen, succeeded } from "./seen.mjs";

const BASE_SEPOLIA = "eip155:84532";
const BASE = "eip155:8453";

const exact = (price, network = BASE_SEPOLIA, extra) => ({ scheme: "exact", price, network, payTo: PAY_TO, maxTimeoutSeconds: 60, extra });
const upto = (price) => ({ scheme: "upto", price, network: BASE_SEPOLIA, payTo: PAY_TO, maxTimeoutSeconds: 60 });
const permit2 = exact("$0.01", BASE_SEPOLIA, { assetTransferMethod: "permit2" });
const cent = (description) => ({ accepts: exact("$0.01"), description });

const ROUTES = {
  "GET /paid": cent("One fact"),
  "GET /dear": { accepts: exact("$5"), description: "An expensive fact" },
  "POST /echo": cent("What arrived"),
  "GET /stream": cent("Several events"),
  "GET /id": { ...cent("Once per identifier"), extensions: { [PAYMENT_IDENTIFIER]: declarePaymentIdentifierExtension(true) } },
  "GET /upfront": { accepts: exact("$0.01", BASE_SEPOLIA, { paymentFlow: "upfront" }), description: "Settled before it is served" },
  "GET /permit2": { accepts: permit2, description: "One fact, paid through Permit2" },
  "GET /permit2-sponsored": { accepts: permit2, description: "The same, without an allowance", extensions: declareEip2612GasSponsoringExtension() },
  "GET /upto": { accepts: upto("$0.05"), description: "At most five cents; it takes two" },
  "GET /upto-nothing": { accepts: upto("$0.05"), description: "At most five cents; it takes none" },
  "GET /broken": cent("A handler that fails: verified, never settled"),
  "GET /lost": cent("Settled, then the connection is cut"),
  "GET /multi": {
    description: "Four offers; the last is the cheapest that a payer of Base Sepolia USDC can use",
    accepts: [
      exact("$0.01", BASE),
      // Looks cheap, but nobody knows what this token is worth.
      exact({ asset: "0x00000000000000000000000000000000DeaDBeef", amount: "1", extra: { name: "USDC", version: "2" } }),
      exact({ asset: TOKEN, amount: "20000", extra: { name: "USDC", version: "2" } }),
      exact("$0.01"),
    ],
  },
};

/** @returns the application, once the facilitator confirmed that it supports every route */
export async function sellerV2(facilitatorUrl) {
  const resources = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitatorUrl }))
    .register("eip155:*", new ExactEvmScheme())
    .register("eip155:*", new UptoEvmScheme())
    .registerExtension(paymentIdentifierResourceServerExtension);
  const server = new x402HTTPResourceServer(resources, ROUTES);
  await server.initialize();

  const app = express().disable("x-powered-by");
  app.use(seen());
  app.get("/id", idempotent());
  app.get("/lost", cutOnceSettled);
  // Initialised above, where a mismatch is an error; the middleware itself would end the process with it.
  app.use(paymentMiddlewareFromHTTPServer(server, undefined, undefined, false));

  app.get("/free", (_, response) => response.json({ free: true }));
  app.get("/ticks", (_, response) => events(response, 100));
  app.get("/upto", takes("20000"));
  app.get("/upto-nothing", takes("0"));
  for (const path of ["/paid", "/dear", "/upfront", "/multi", "/lost", "/permit2", "/permit2-sponsored"]) {
    app.get(path, (_, response) => response.json({ paid: true, path }));
  }
  app.get("/id", (_, response) => response.json(response.locals.identified));
  app.get("/broken", (_, response) => response.status(500).json({ error: "the handler failed" }));
  app.get("/stream", (_, response) => events(response, 5));
  app.post("/echo", echo);
  return app;
}

/** A handler that knows what its answer is worth only once it has made it. */
function takes(amount) {
  return (request, response) => {
    setSettlementOverrides(response, { amount });
    response.json({ paid: true, path: request.path, amount });
  };
}

/**
 * Five server-sent events. Note that the reference middleware holds a paid answer back until it settled, so on `/stream`
 * they arrive together; on `/ticks`, which is free, they arrive one by one.
 */
async function events(response, everyMs) {
  response.set("content-type", "text/event-stream");
  for (let n = 1; n <= 5; n += 1) {
    response.write(`event: tick\ndata: {"n":${n}}\n\n`);
    await pause(everyMs);
  }
  response.end();
}

/** Takes the money and never answers. Wraps `writeHead` before the payment middleware does, so it runs after settlement. */
function cutOnceSettled(request, response, next) {
  const writeHead = response.writeHead;
  response.writeHead = (...head) => {
    if (succeeded(response)) {
      request.socket.destroy();
      return response;
    }
    return writeHead.apply(response, head);
  };
  next();
}
