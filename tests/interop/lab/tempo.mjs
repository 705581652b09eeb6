// The Tempo chain: anvil under the chain id of Moderato, Tempo's public test net, so that clients and sellers use their
// built-in tables. Fees are paid in tokens; the development accounts own 2^64 - 1 atoms of each from the first block.
import { createClient, custom, http, parseAbi, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { tempoModerato } from "viem/tempo/chains";
import { startAnvil } from "./anvil.mjs";
import { GAS_KEY } from "./chain.mjs";

export const CHAIN_ID = tempoModerato.id;

/** pathUSD, 6 decimals: the token of every price here. */
export const PATH_USD = "0x20c0000000000000000000000000000000000000";

/** Pays the fees of sponsored sales. */
export const SPONSOR = privateKeyToAccount(GAS_KEY);

const OPTIONS = [
  "--network", "tempo", "--chain-id", String(CHAIN_ID), "--accounts", "3",
  // anvil's default is the genesis rules. They know no expiring nonces and take `nonceKey` 2^256 - 1 for an ordinary
  // lane: its first transaction raises the lane to 1, and every later one with nonce 0 is dropped without a word.
  "--hardfork", "T4",
  // Simulations judge validity by the time of the latest block, so blocks have to come without transactions as well; and
  // no transaction has to wait for the next of them.
  "--block-time", "1", "--mixed-mining",
];

const tokenAbi = parseAbi([
  "function balanceOf(address) view returns (uint256)",
  "function transfer(address to, uint256 value) returns (bool)",
]);

export const startTempo = () => startAnvil(OPTIONS, async (rpc) => {
  // The genesis block is of the year 1970, and simulations judge validity by it until another block comes.
  await tempoClient(rpc).request({ method: "evm_mine" });
});

export const tempoClient = (rpc) => reading(node(rpc));

/** Reads as usual, and is refused every transaction it hands in: what verifies here cannot settle. */
export function refusedClient(rpc) {
  const request = node(rpc);
  return reading(async (call) => {
    if (call.method.startsWith("eth_sendRawTransaction")) {
      throw new Error("the node takes no transactions");
    }
    return request(call);
  });
}

/** For a laboratory without this chain. The reference server would otherwise ask the public test net. */
export const absentClient = () => reading(async () => { throw new Error("this laboratory has no Tempo chain; start it with --tempo"); });

const reading = (request) =>
  createClient({ chain: tempoModerato, transport: custom({ request }, { retryCount: 0 }), pollingInterval: 20 }).extend(publicActions);

function node(rpc) {
  const { request } = http(rpc, { retryCount: 0 })({ chain: tempoModerato });
  return (call) => request(call.method === "eth_call" ? simulable(call) : call);
}

/**
 * The reference server simulates a payment before it hands it in, and describes it by its `calls`. anvil's `eth_call` does
 * not read those: without `to` it plays the creation of an empty contract, which proves nothing and wants 784 000 gas. So a
 * payment of one call is described in the old way as well.
 */
function simulable({ method, params: [transaction, ...rest] }) {
  const { calls, to } = transaction;
  const [only, ...more] = to ? [] : calls ?? [];
  return { method, params: [only && more.length === 0 ? { ...transaction, to: only.to, data: only.data } : transaction, ...rest] };
}

export const pathUsdOf = (client, owner) =>
  client.readContract({ address: PATH_USD, abi: tokenAbi, functionName: "balanceOf", args: [owner] });
