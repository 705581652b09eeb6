// An MPP seller: express with the reference server. Its `evm` 402 carries an x402 v2 offer of the same sale beside the
// `Payment` challenge, and either is settled by the laboratory's facilitator.
import express from "express";
import { payment } from "mppx/express";
import { Mppx, stripe, tempo } from "mppx/server";
import { evm } from "mppx/evm/server";
import { PAY_TO, TOKEN } from "./chain.mjs";
import { echo } from "./echo.mjs";
import { seen } from "./seen.mjs";
import { absentClient, PATH_USD, refusedClient, SPONSOR, tempoClient } from "./tempo.mjs";

// Challenges are bound by it for the life of one laboratory; nobody else needs it.
const secretKey = "a laboratory's secret key of at least 32 bytes";

const fact = { description: "One fact" };
const cent = { amount: "0.01", ...fact };
const dollar = { amount: "1.00", ...fact };
const nickel = { amount: "0.05", ...fact, supportedModes: ["pull"] };

/**
 * @param tempoRpc the Tempo chain; without one `tempo` is offered beside other methods and cannot be paid
 * @param stripeKey what the seller shows to Stripe
 */
export function sellerMpp({ facilitatorUrl, tempoRpc, stripeKey }) {
  const token = { chainId: 84532, currency: TOKEN, decimals: 6, recipient: PAY_TO, authorization: { name: "USDC", version: "2" } };
  const pathUsd = { currency: PATH_USD, recipient: PAY_TO, testnet: true };
  const shop = Mppx.create({ secretKey, methods: [
    evm.charge({ ...token, x402: { facilitator: facilitatorUrl } }),
    stripe.charge({ secretKey: stripeKey, networkId: "profile_test_lab", paymentMethodTypes: ["card"], currency: "usd", decimals: 2 }),
    tempo.charge({ ...pathUsd, getClient: () => (tempoRpc ? tempoClient(tempoRpc) : absentClient()) }),
  ] });
  const failing = Mppx.create({ secretKey, methods: [
    evm.charge({ ...token, settle: async () => { throw new Error("the settlement failed"); } }),
    ...(tempoRpc ? [tempo.charge({ ...pathUsd, getClient: () => refusedClient(tempoRpc) })] : []),
  ] });

  // The realm that two server libraries fall back to, and that of somebody else.
  const called = (realm) => Mppx.create({ secretKey, realm, methods: [evm.charge({ ...token, x402: { facilitator: facilitatorUrl } })] });

  const composed = (offers) => shop.compose(...offers);
  const app = express().disable("x-powered-by");
  app.use(seen());
  app.get("/mpp/paid", payment(shop.evm.charge, cent), paid);
  app.get("/mpp/default-realm", payment(called("MPP Payment").evm.charge, cent), paid);
  app.get("/mpp/foreign-realm", payment(called("bank.example.com").evm.charge, cent), paid);
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

  app.get("/mpp/stripe", payment(shop.stripe.charge, dollar), paid);
  app.post("/mpp/stripe-echo", payment(shop.stripe.charge, dollar), echo);
  app.get("/mpp/stripe-jpy", payment(shop.stripe.charge, { amount: "500", currency: "jpy", decimals: 0, ...fact }), paid);
  app.get("/mpp/stripe-external", payment(shop.stripe.charge, { ...dollar, externalId: "order-7" }), paid);
  app.get("/mpp/stripe-meta", payment(shop.stripe.charge, { ...dollar, metadata: { basket: "facts", size: "1" } }), paid);
  app.get("/mpp/dual", payment(composed, [["stripe/charge", dollar], ["evm/charge", cent]]), paid);
  app.get("/mpp/all", payment(composed, [["stripe/charge", dollar], ["tempo/charge", nickel], ["evm/charge", cent]]), paid);

  if (tempoRpc) {
    app.get("/mpp/tempo", payment(shop.tempo.charge, nickel), paid);
    app.get("/mpp/tempo-sponsored", payment(shop.tempo.charge, { ...nickel, feePayer: SPONSOR }), paid);
    app.get("/mpp/tempo-broken", payment(failing.tempo.charge, nickel), paid);
  }
  return app;
}

const paid = (request, response) => response.json({ paid: true, path: request.path });
