// An x402 v1 seller: the original middleware of the first protocol version (body challenge, X-PAYMENT).
import express from "express";
import { paymentMiddleware } from "x402-express";
import { PAY_TO } from "./chain.mjs";
import { seen } from "./seen.mjs";

export function sellerV1(facilitatorUrl) {
  const app = express().disable("x-powered-by");
  app.use(seen());
  app.use(paymentMiddleware(PAY_TO, {
    "GET /v1/paid": { price: "$0.01", network: "base-sepolia", config: { description: "One fact" } },
  }, { url: facilitatorUrl }));
  app.get("/v1/free", (_, response) => response.json({ free: true }));
  app.get("/v1/paid", (_, response) => response.json({ paid: true, path: "/v1/paid" }));
  return app;
}
