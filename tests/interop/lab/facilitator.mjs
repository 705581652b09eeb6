// The facilitator: the reference library behind the three routes that sellers call.
import express from "express";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { UptoEvmScheme } from "@x402/evm/upto/facilitator";
import { EIP2612_GAS_SPONSORING } from "@x402/extensions";
import { toHex } from "viem";
import { connect, GAS_KEY } from "./chain.mjs";

/** Base main net is announced so that a seller may offer it; no token lives there on our chain, so nothing can settle. */
const NETWORKS = ["eip155:84532", "eip155:8453"];

export function facilitator(rpc) {
  const signer = toFacilitatorEvmSigner(oneAtATime(connect(rpc, GAS_KEY)));
  const library = new x402Facilitator()
    .register(NETWORKS, new ExactEvmScheme(signer))
    .register(NETWORKS, new UptoEvmScheme(signer))
    .registerExtension(EIP2612_GAS_SPONSORING)
    .registerV1(["base-sepolia"], new ExactEvmSchemeV1(signer));

  const tally = { verified: 0, refusals: [], failures: [], settlements: [] };
  const app = express().use(express.json({ limit: "1mb" }));

  app.get("/supported", (_, response) => response.json(library.getSupported()));

  app.post("/verify", async ({ body }, response) => {
    const verdict = await library.verify(body.paymentPayload, body.paymentRequirements);
    if (verdict.isValid) {
      tally.verified += 1;
    } else {
      tally.refusals.push(verdict.invalidReason);
    }
    response.json(verdict);
  });

  app.post("/settle", async ({ body }, response) => {
    const outcome = await library.settle(body.paymentPayload, body.paymentRequirements);
    if (outcome.success) {
      const { x402Version, payload } = body.paymentPayload;
      tally.settlements.push({ x402Version, scheme: body.paymentRequirements.scheme, ...taken(payload, outcome), transaction: outcome.transaction });
    } else {
      tally.failures.push(outcome.errorReason);
    }
    response.json(outcome);
  });

  // What was settled at nothing has no transaction.
  app.get("/_seen", (_, response) => response.json({ settled: tally.settlements.filter(({ transaction }) => transaction).length, ...tally }));

  // Express knows an error handler by its four parameters.
  app.use((error, _request, response, _next) => response.status(500).json({ error: error.message }));
  return app;
}

/** What was taken, in the same words for both kinds of authorization; the receipt says how much of an `upto` it was. */
function taken({ authorization, permit2Authorization }, { amount }) {
  if (authorization) {
    const { from, to, value, nonce } = authorization;
    return { from, to, value, nonce };
  }
  const { from, permitted, witness, nonce } = permit2Authorization;
  return { from, to: witness.to, value: amount ?? permitted.amount, nonce: toHex(BigInt(nonce), { size: 32 }) };
}

/** viem asks the chain for the account nonce on every send, so two sends at once would take the same one. */
function oneAtATime(client) {
  let last = Promise.resolve();
  const writeContract = (call) => {
    const sent = last.then(() => client.writeContract(call));
    last = sent.catch(() => {});
    return sent;
  };
  return { ...client, writeContract };
}
