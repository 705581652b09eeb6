// Proves the MPP seller's `stripe` and `tempo` sales with the reference client: Stripe is a stand-in of this test, the
// Tempo chain is asked what moved.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { Mppx, evm, stripe as stripeMethod, tempo as tempoMethod } from "mppx/client";
import { privateKeyToAccount } from "viem/accounts";
import { balanceOf, connect } from "../lab/chain.mjs";
import { pathUsdOf, tempoClient } from "../lab/tempo.mjs";
import { assertRefused, receiptOf } from "./answer.mjs";
import { fakeStripe } from "./stripe.mjs";
import { proveTempo } from "./tempo.mjs";

const KEY = "sk_test_selftest";
const NICKEL = 50_000n;

/** @param startLab starts a laboratory with the given options */
export async function proveMpp(step, startLab) {
  const bank = await fakeStripe();
  const { lab, child } = await startLab("--tempo", "--stripe", bank.url, "--stripe-key", KEY);
  const tempo = tempoClient(lab.tempo.rpc);
  const chain = connect(lab.rpc, lab.payerKey);
  const account = privateKeyToAccount(lab.payerKey);
  const minted = [];

  const byStripe = (granted = {}) => stripeMethod.charge({
    paymentMethod: "pm_card_visa",
    createToken: async ({ amount, currency, expiresAt, networkId, metadata }) => {
      minted.push({ amount, currency, expiresAt, networkId, metadata });
      return granted.spt ?? bank.issue({ amount, currency, expiresAt, ...granted });
    },
  });
  const byTempo = () => tempoMethod.charge({ account, getClient: () => tempo });
  const byEvm = () => evm({ account, authorization: { name: "USDC", version: "2" } });
  const client = (method) => Mppx.create({ polyfill: false, maxPaymentRetries: 1, methods: [method] });
  const buy = (path, method, options) => client(method).fetch(lab.mpp + path, options);

  /** Pays by hand, so that the credential can be shown again. */
  async function credentialFor(path, method) {
    return client(method).createCredential(await fetch(lab.mpp + path));
  }
  const present = (path, credential) => fetch(lab.mpp + path, { headers: { authorization: credential } });

  /** What the payee got and the payer lost on the Tempo chain, fee included. */
  async function movedOnTempo(act) {
    const read = () => Promise.all([lab.payTo, lab.payer, lab.tempo.sponsor].map((owner) => pathUsdOf(tempo, owner)));
    const [payee, payer, sponsor] = await read();
    const result = await act();
    const after = await read();
    return { result, got: after[0] - payee, lost: payer - after[1], sponsored: sponsor - after[2] };
  }

  await step("stripe: every route is cashed for what its challenge says", async () => {
    const meta = { basket: "facts", size: "1" };
    const sales = [
      ["/mpp/stripe", { amount: "100", currency: "usd" }, {}],
      ["/mpp/stripe-jpy", { amount: "500", currency: "jpy" }, {}],
      ["/mpp/stripe-external", { amount: "100", currency: "usd" }, {}, { externalId: "order-7" }],
      ["/mpp/stripe-meta", { amount: "100", currency: "usd", metadata: meta }, meta],
    ];
    for (const [path, price, metadata, receipted] of sales) {
      const answer = await buy(path, byStripe());
      assert.deepEqual([answer.status, await answer.json()], [200, { paid: true, path }]);
      const asked = minted.at(-1);
      assert.deepEqual(asked, { metadata: undefined, ...price, networkId: "profile_test_lab", expiresAt: asked.expiresAt });

      const { method, path: called, headers, body } = bank.calls.at(-1);
      const form = Object.fromEntries(new URLSearchParams(body));
      const spt = form.shared_payment_granted_token;
      const id = form["metadata[mpp_challenge_id]"];
      assert.deepEqual([method, called], ["POST", "/v1/payment_intents"]);
      assert.equal(headers.authorization, `Basic ${Buffer.from(`${KEY}:`).toString("base64")}`);
      assert.equal(headers["content-type"], "application/x-www-form-urlencoded");
      assert.equal(headers["idempotency-key"], `mpp_${id}_${spt}`);
      assert.equal(headers["stripe-version"], "2026-07-29.preview");
      assert.deepEqual(form, {
        amount: price.amount,
        "automatic_payment_methods[allow_redirects]": "never",
        "automatic_payment_methods[enabled]": "true",
        confirm: "true",
        currency: price.currency,
        shared_payment_granted_token: spt,
        "metadata[machine_payment]": "true",
        "metadata[mpp_sdk]": form["metadata[mpp_sdk]"],
        "metadata[mpp_intent]": "charge",
        "metadata[mpp_challenge_id]": id,
        ...Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`metadata[${name}]`, value])),
      });

      const receipt = receiptOf(answer);
      assert.match(receipt.reference, /^pi_/);
      assert.deepEqual(receipt, { method: "stripe", status: "success", timestamp: receipt.timestamp, reference: receipt.reference, ...receipted });
    }
  });

  await step("stripe: a paid body arrives whole", async () => {
    const body = "hello".repeat(1000);
    const answer = await (await buy("/mpp/stripe-echo", byStripe(), { method: "POST", body })).json();
    assert.deepEqual([answer.length, answer.sha256], [5000, createHash("sha256").update(body).digest("hex")]);
  });

  await step("stripe: a token that is unknown, used, expired or in doubt buys nothing", async () => {
    const used = bank.issue({ amount: "100", currency: "usd", expiresAt: Date.now(), used: true });
    const cases = [
      [{ spt: "spt_of_nobody" }, 402, "verification-failed", /No such token/],
      [{ spt: used }, 402, "verification-failed", /The token was used/],
      [{ expiresAt: 1 }, 402, "verification-failed", /The token has expired/],
      [{ outcome: "requires_action" }, 402, "payment-action-required", /requires action/],
      [{ outcome: "processing" }, 500, "internal-payment-error", /internal/],
    ];
    for (const [granted, status, code, detail] of cases) {
      const answer = await present("/mpp/stripe", await credentialFor("/mpp/stripe", byStripe(granted)));
      await assertRefused(answer, status, code, detail);
    }
  });

  await step("stripe: a credential is good once; the second time Stripe repeats itself and the seller refuses", async () => {
    const credential = await credentialFor("/mpp/stripe", byStripe());
    assert.equal((await present("/mpp/stripe", credential)).status, 200);
    await assertRefused(await present("/mpp/stripe", credential), 402, "verification-failed", /already been processed/);
    const [first, second] = bank.calls.slice(-2);
    assert.deepEqual([first.body, first.headers["idempotency-key"]], [second.body, second.headers["idempotency-key"]]);
  });

  await step("tempo: /mpp/tempo moves $0.05 and the receipt names the transaction", async () => {
    const { result, got, lost } = await movedOnTempo(() => buy("/mpp/tempo", byTempo()));
    assert.equal(result.status, 200);
    assert.deepEqual([got, lost], [NICKEL, NICKEL]); // anvil lets its own accounts pay fees in other tokens
    const receipt = receiptOf(result);
    assert.deepEqual(Object.keys(receipt), ["method", "status", "timestamp", "reference"]);
    const transaction = await tempo.getTransactionReceipt({ hash: receipt.reference });
    assert.deepEqual([receipt.method, transaction.status, transaction.type], ["tempo", "success", "0x76"]);
    return receipt.reference;
  });

  await step("tempo: one sender buys eight times at once (the trap of the genesis rules)", async () => {
    const { result, got } = await movedOnTempo(() => Promise.all(Array.from({ length: 8 }, () => buy("/mpp/tempo", byTempo()))));
    assert.deepEqual(result.map(({ status }) => status), Array(8).fill(200));
    assert.equal(got, 8n * NICKEL);
    assert.equal(new Set(result.map((answer) => receiptOf(answer).reference)).size, 8);
  });

  await step("tempo: of a sponsored sale the seller pays the fee", async () => {
    const { result, got, lost, sponsored } = await movedOnTempo(() => buy("/mpp/tempo-sponsored", byTempo()));
    assert.equal(result.status, 200);
    assert.deepEqual([got, lost, sponsored > 0n], [NICKEL, NICKEL, true]);
    return `${sponsored} atoms`;
  });

  await step("tempo: a credential is good once", async () => {
    const credential = await credentialFor("/mpp/tempo", byTempo());
    const { got } = await movedOnTempo(async () => {
      assert.equal((await present("/mpp/tempo", credential)).status, 200);
      await assertRefused(await present("/mpp/tempo", credential), 402, "verification-failed", /already been used/);
    });
    assert.equal(got, NICKEL);
  });

  await step("tempo: /mpp/tempo-broken verifies and cannot settle", async () => {
    const credential = await credentialFor("/mpp/tempo-broken", byTempo());
    const { got, lost } = await movedOnTempo(async () => {
      await assertRefused(await present("/mpp/tempo-broken", credential), 500, "internal-payment-error", /internal/);
      await assertRefused(await present("/mpp/tempo-broken", credential), 402, "verification-failed", /already been used/);
    });
    assert.deepEqual([got, lost], [0n, 0n]);
  });

  await step("mpp: of several methods each buys at its own price, and evm brings x402 along", async () => {
    for (const [path, methods] of [["/mpp/dual", ["stripe", "evm"]], ["/mpp/all", ["stripe", "tempo", "evm"]]]) {
      const { headers } = await fetch(lab.mpp + path);
      assert.deepEqual([...headers.get("www-authenticate").matchAll(/method="(\w+)"/g)].map(([, method]) => method), methods);
      assert.ok(headers.has("payment-required"));

      assert.equal(receiptOf(await buy(path, byStripe())).method, "stripe");
      assert.equal(minted.at(-1).amount, "100");
      const before = await balanceOf(chain, lab.payTo);
      assert.equal(receiptOf(await buy(path, byEvm())).method, "evm");
      assert.equal(await balanceOf(chain, lab.payTo) - before, 10_000n);
    }
    const { result, got } = await movedOnTempo(() => buy("/mpp/all", byTempo()));
    assert.deepEqual([receiptOf(result).method, got], ["tempo", NICKEL]);
  });

  await step("mpp: the seller counts tokens and transactions, and what settled them", async () => {
    const { routes } = await (await fetch(`${lab.mpp}/_seen`)).json();
    const counted = ({ with_payment, distinct_payments, settled, settled_by }) => ({ with_payment, distinct_payments, settled, settled_by });
    assert.deepEqual(counted(routes["GET /mpp/stripe"]), { with_payment: 8, distinct_payments: 7, settled: 2, settled_by: { stripe: 2 } });
    assert.deepEqual(counted(routes["GET /mpp/tempo"]), { with_payment: 11, distinct_payments: 10, settled: 10, settled_by: { tempo: 10 } });
    assert.deepEqual(counted(routes["GET /mpp/tempo-broken"]), { with_payment: 2, distinct_payments: 1, settled: 0, settled_by: {} });
    assert.deepEqual(routes["GET /mpp/all"].settled_by, { stripe: 1, evm: 1, tempo: 1 });
  });

  await proveTempo(step, lab);

  child.stdin.end();
  bank.close();
}

/** Without its Stripe and its Tempo chain a laboratory offers both and settles neither, and asks nobody else to. */
export async function proveMppAlone(step, startLab) {
  const { lab, child } = await startLab();
  await step("mpp: without --stripe and --tempo nothing settles", async () => {
    const client = Mppx.create({ polyfill: false, methods: [stripeMethod.charge({ paymentMethod: "pm_card_visa", createToken: async () => "spt_x" })] });
    const credential = await client.createCredential(await fetch(`${lab.mpp}/mpp/other`));
    const answer = await fetch(`${lab.mpp}/mpp/other`, { headers: { authorization: credential } });
    await assertRefused(answer, 500, "internal-payment-error", /internal/);
    assert.equal((await fetch(`${lab.mpp}/mpp/tempo`)).status, 404);
    assert.equal(lab.tempo, undefined);
  });
  child.stdin.end();
}
