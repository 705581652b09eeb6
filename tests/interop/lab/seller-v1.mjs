// An x402 v1 seller: the original middleware of the first protocol version (body challenge, X-PAYMENT).
import express from "express";
import { exact } from "x402/schemes";
import { findMatchingPaymentRequirements } from "x402/shared";
import { settleResponseHeader } from "x402/types";
import { useFacilitator } from "x402/verify";
import { paymentMiddleware } from "x402-express";
import { PAY_TO, TOKEN } from "./chain.mjs";
import { seen } from "./seen.mjs";

export function sellerV1(facilitatorUrl) {
  const app = express().disable("x-powered-by");
  app.use(seen());
  app.use(paymentMiddleware(PAY_TO, {
    "GET /v1/paid": { price: "$0.01", network: "base-sepolia", config: { description: "One fact" } },
  }, { url: facilitatorUrl }));
  app.get("/v1/two-prices", twoPrices(facilitatorUrl));
  app.get("/v1/free", (_, response) => response.json({ free: true }));
  app.get("/v1/paid", (_, response) => response.json({ paid: true, path: "/v1/paid" }));
  return app;
}

/**
 * A sale with two entries for one network, the dearer one first. The middleware has one price for a route, so this puts
 * the original library's parts together as the middleware does; which entry a payment is for is the library's choice.
 */
function twoPrices(facilitatorUrl) {
  const { verify, settle } = useFacilitator({ url: facilitatorUrl });
  return async (request, response) => {
    const accepts = ["20000", "10000"].map((maxAmountRequired) => ({
      scheme: "exact", network: "base-sepolia", maxAmountRequired, resource: `https://${request.get("host")}${request.path}`,
      description: "One fact", mimeType: "application/json", payTo: PAY_TO, maxTimeoutSeconds: 60, asset: TOKEN,
      extra: { name: "USDC", version: "2" },
    }));
    const refuse = (error) => response.status(402).json({ x402Version: 1, error, accepts });
    const header = request.get("X-PAYMENT");
    if (!header) {
      return refuse("X-PAYMENT header is required");
    }
    const payment = { ...exact.evm.decodePayment(header), x402Version: 1 };
    const asked = findMatchingPaymentRequirements(accepts, payment);
    const verdict = await verify(payment, asked);
    if (!verdict.isValid) {
      return refuse(verdict.invalidReason);
    }
    const outcome = await settle(payment, asked);
    if (!outcome.success) {
      return refuse(outcome.errorReason);
    }
    return response.set("X-PAYMENT-RESPONSE", settleResponseHeader(outcome)).json({ paid: true, path: request.path });
  };
}
