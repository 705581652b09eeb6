// What the reference server and the chain make of a `tempo` transaction that somebody else built: signed without asking
// the chain anything, by a wallet that is new to it, right or wrong in one place.
import assert from "node:assert/strict";
import { Challenge, Credential } from "mppx";
import { concat, encodeFunctionData, keccak256, parseAbi, slice, toBytes } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { Transaction } from "viem/tempo";
import { PATH_USD, pathUsdOf, tempoClient } from "../lab/tempo.mjs";
import { assertRefused } from "./answer.mjs";

const FUNDS = 1_000_000n;
const EXPIRING = 2n ** 256n - 1n;
const abi = parseAbi(["function transfer(address,uint256)", "function transferWithMemo(address,uint256,bytes32)"]);
const hash = (text) => keccak256(toBytes(text));
const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;
const transferTo = (payee, amount, memo) =>
  encodeFunctionData(memo ? { abi, functionName: "transferWithMemo", args: [payee, amount, memo] } : { abi, functionName: "transfer", args: [payee, amount] });

export async function proveTempo(step, lab) {
  const client = tempoClient(lab.tempo.rpc);
  const stranger = privateKeyToAccount(generatePrivateKey());

  /** A transaction for the challenge of `path`, presented. `wrong` says what is not as it should be. */
  async function pay({ path = "/mpp/tempo", wallet, memo, payee, amount, plain, also = [], source, transaction = {} }) {
    const challenge = Challenge.fromResponse(await fetch(lab.mpp + path));
    const { request, realm, id } = challenge;
    const bound = concat([slice(hash("mpp"), 0, 4), "0x01", slice(hash(realm), 0, 10), "0x00000000000000000000", slice(hash(id), 0, 7)]);
    const data = transferTo(payee ?? request.recipient, amount ?? BigInt(request.amount), plain ? undefined : memo ?? bound);
    const signature = await wallet.signTransaction({
      type: "tempo",
      chainId: lab.tempo.chainId,
      nonceKey: EXPIRING,
      nonce: 0,
      validBefore: inSeconds(25),
      gas: 500_000n,
      maxFeePerGas: 20_000_000_000n,
      maxPriorityFeePerGas: 0n,
      feeToken: PATH_USD,
      calls: [{ to: PATH_USD, data }, ...also],
      ...transaction,
    }, { serializer: Transaction.serialize });
    const credential = Credential.serialize({
      challenge,
      payload: { type: "transaction", signature },
      source: source ?? `did:pkh:eip155:${lab.tempo.chainId}:${wallet.address}`,
    });
    return fetch(lab.mpp + path, { headers: { authorization: credential } });
  }

  /** Pays `order` from a new wallet. */
  async function spend(order) {
    const wallet = privateKeyToAccount(generatePrivateKey());
    await fund(wallet.address);
    const before = await pathUsdOf(client, lab.payTo);
    const answer = await pay({ wallet, ...order });
    return { answer, got: await pathUsdOf(client, lab.payTo) - before, lost: FUNDS - await pathUsdOf(client, wallet.address) };
  }

  async function fund(owner) {
    const call = { from: lab.payer, to: PATH_USD, data: transferTo(owner, FUNDS) };
    const sent = await client.request({ method: "eth_sendTransaction", params: [call] });
    await client.waitForTransactionReceipt({ hash: sent });
  }

  const sponsored = { path: "/mpp/tempo-sponsored", transaction: { feePayer: true, feeToken: undefined } };
  const more = (order, transaction) => ({ ...order, transaction: { ...order.transaction, ...transaction } });
  const extra = [{ to: PATH_USD, data: transferTo(stranger.address, 1n) }];

  const settled = {
    "as it should be, the fee in the paid token": {},
    "no fee token named: the fee is in the paid token": { transaction: { feeToken: undefined } },
    "an ordinary nonce": { transaction: { nonceKey: 0n, validBefore: undefined } },
    "a lane of its own": { transaction: { nonceKey: 5n, validBefore: undefined } },
    "just enough gas": { transaction: { gas: 60_000n } },
    "in the name of somebody else": { source: `did:pkh:eip155:${lab.tempo.chainId}:${stranger.address}` },
  };
  for (const [name, order] of Object.entries(settled)) {
    await step(`tempo, signed offline: ${name}`, async () => {
      const { answer, got, lost } = await spend(order);
      assert.equal(answer.status, 200, await answer.text());
      assert.equal(got, 50_000n);
      assert.ok(lost > got && lost <= got + 10_000n, `${lost}`); // the fee is below its cap, 500000 * 20 gwei
      return `${lost - got} atoms of fee`;
    });
  }

  await step("tempo, signed offline: of a sponsored sale the wallet pays the price alone", async () => {
    const { answer, got, lost } = await spend(sponsored);
    assert.deepEqual([answer.status, got, lost], [200, 50_000n, 50_000n]);
  });

  const verification = [402, "verification-failed"];
  const internal = [500, "internal-payment-error", /internal payment error/];
  const refused = {
    "a memo of its own": [{ memo: `0x${"ab".repeat(32)}` }, ...verification, /memo is not bound/],
    "no memo": [{ plain: true }, ...verification, /memo is not bound/],
    "one atom less": [{ amount: 49_999n }, ...verification, /no matching payment call/],
    "one atom more": [{ amount: 50_001n }, ...verification, /no matching payment call/],
    "another payee": [{ payee: stranger.address }, ...verification, /no matching payment call/],
    "another chain": [{ transaction: { chainId: 4217 } }, ...internal],
    "expired": [{ transaction: { validBefore: inSeconds(-5) } }, ...internal],
    "valid for longer than 30 s": [{ transaction: { validBefore: inSeconds(120) } }, ...internal],
    "an expiring nonce without an end": [{ transaction: { validBefore: undefined } }, ...internal],
    "an expiring nonce that is not 0": [{ transaction: { nonce: 1 } }, ...internal],
    "too little gas": [{ transaction: { gas: 40_000n } }, ...internal],
    "a fee cap below the base fee": [{ transaction: { maxFeePerGas: 1n } }, ...internal],
    "a fee token that the wallet has none of": [{ transaction: { feeToken: "0x20c0000000000000000000000000000000000001" } }, ...internal],
    "a wallet without money": [{ wallet: stranger }, ...internal],
    "left to a sponsor that there is not": [{ transaction: sponsored.transaction }, ...internal],
    "sponsored, with a call besides": [{ ...sponsored, also: extra }, ...verification, /no matching payment call/],
    "sponsored, in a lane of its own": [more(sponsored, { nonceKey: 5n, validBefore: undefined }), ...internal],
    "sponsored, more gas than the sponsor allows": [more(sponsored, { gas: 3_000_000n }), ...internal],
  };
  for (const [name, [order, ...problem]] of Object.entries(refused)) {
    await step(`tempo, signed offline and refused: ${name}`, async () => {
      const { answer, got, lost } = await spend(order);
      await assertRefused(answer, ...problem);
      assert.deepEqual([got, lost], [0n, 0n]);
    });
  }
}
