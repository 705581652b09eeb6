// An MPP seller: express with the reference server. Its `evm` 402 carries an x402 v2 offer of the same sale beside the
// `Payment` challenge, and either is settled by the laboratory's facilitator.
import express from "express";
import { payment } from "mppx/express";
import { Mppx, stripe, tempo } from "mppx/server";
import { evm } from "mppx/evm/server";
import { PAY_TO, TOKEN } from "./chain.mjs";
import { echo } from "./echo.mjs";
import { seen } from "./seen.mjs";

// Challenges are bound by it for the life of one laboratory; nobody else needs it.
const secretKey = "a laboratory's secret key of at least 32 bytes";

export function sellerMpp(facilitatorUrl) {
  const token = { chainId: 84532, currency: TOKEN, decimals: 6, recipient: PAY_TO, authorization: { name: "USDC", version: "2" } };
  const authorization = evm.charge({ ...token, x402: { facilitator: facilitatorUrl } });
  const broken = evm.charge({ ...token, settle: async () => { throw new Error("the settlement failed"); } });

  const shop = Mppx.create({ secretKey, methods: [
    authorization,
    // For their challenges only: nothing here is ever settled.
    stripe.charge({ secretKey: "sk_test_of_nobody", networkId: "profile_test_lab", paymentMethodTypes: ["card"], currency: "usd", decimals: 2 }),
    tempo.charge({ currency: "0x20c0000000000000000000000000000000000000", recipient: PAY_TO, testnet: true }),
  ] });
  const failing = Mppx.create({ secretKey, methods: [broken] });

  const cent = { amount: "0.01", description: "One fact" };
  const composed = (offers) => shop.compose(...offers);
  const app = express().disable("x-powered-by");
  app.use(seen());
  app.get("/mpp/paid", payment(shop.evm.charge, cent), paid);
  app.get("/mpp/broken", payment(failing.evm.charge, cent), paid);
  app.post("/mpp/echo", payment(shop.evm.charge, cent), echo);
  app.get("/mpp/multi", payment(composed, [
    ["stripe/charge", { amount: "1.00" }],
    ["tempo/charge", { amount: "0.005" }],
    ["evm/charge", cent],
  ]), paid);
  app.get("/mpp/other", payment(composed, [
    ["stripe/charge", { amount: "1.00" }],
    ["tempo/charge", { amount: "0.005" }],
  ]), paid);
  return app;
}

const paid = (request, response) => response.json({ paid: true, path: request.path });
