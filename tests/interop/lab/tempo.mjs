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
  // Validity is judged by the time of the latest block, so blocks have to come without transactions as well; and a
  // transaction need not wait for the next of them.
  "--block-time", "1", "--mixed-mining",
];

const tokenAbi = parseAbi([
  "function balanceOf(address) view returns (uint256)",
  "function transfer(address to, uint256 value) returns (bool)",
]);

export const startTempo = () => startAnvil(OPTIONS, async (rpc) => {
  const chainId = await tempoClient(rpc).getChainId();
  if (chainId !== CHAIN_ID) {
    throw new Error(`the Tempo chain calls itself ${chainId}`);
  }
});

export const tempoClient = (rpc) => reading(http(rpc));

/** Reads as usual, and is refused every transaction it hands in: what verifies here cannot settle. */
export function refusedClient(rpc) {
  const { request } = tempoClient(rpc);
  return reading(custom({
    async request(call) {
      if (call.method.startsWith("eth_sendRawTransaction")) {
        throw new Error("the node takes no transactions");
      }
      return request(call);
    },
  }, { retryCount: 0 }));
}

/** For a laboratory without this chain. The reference server would otherwise ask the public test net. */
export const absentClient = () => reading(custom({
  request: async () => { throw new Error("this laboratory has no Tempo chain; start it with --tempo"); },
}, { retryCount: 0 }));

const reading = (transport) => createClient({ chain: tempoModerato, transport, pollingInterval: 20 }).extend(publicActions);

export const pathUsdOf = (client, owner) =>
  client.readContract({ address: PATH_USD, abi: tokenAbi, functionName: "balanceOf", args: [owner] });
