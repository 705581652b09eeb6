// The chain: anvil under the chain id of Base Sepolia, with our token at the address of the real USDC there, so that
// clients and sellers use their built-in tables and nothing has to be configured for the test.
import { readFileSync } from "node:fs";
import { createPublicClient, createWalletClient, getAddress, http, keccak256, parseAbi, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";
import { startAnvil } from "./anvil.mjs";
// Not a public entry of viem, but the only place among our packages that carries the code of Multicall3.
import { multicall3Bytecode } from "../node_modules/viem/_esm/constants/contracts.js";

export const TOKEN = getAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
const MULTICALL3 = getAddress("0xcA11bde05977b3631167028862bE2a173976CA11");
export const PERMIT2 = getAddress("0x000000000022D473030F116dDEE9F6B43aC78BA3");

/** Of our own making at the addresses of the real ones: contracts/NAME.json. */
const COMPILED = {
  Token: TOKEN,
  ExactPermit2Proxy: getAddress("0x402085c248EeA27D92E8b30b2C58ed07f9E20001"),
  UptoPermit2Proxy: getAddress("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"),
};
export const { ExactPermit2Proxy: EXACT_PROXY, UptoPermit2Proxy: UPTO_PROXY } = COMPILED;

/** Hash of the code that anvil 1.7.1 has at Permit2's address: 9152 bytes that any other release has to have as well. */
const PERMIT2_CODE_HASH = "0x463331fa7a0d5f07488e42c37b461bb56a822145c161a821fbafe7d4e916b546";

// The first three public development keys of anvil. They hold nothing anywhere else.
export const PAYER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
export const GAS_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
export const PAY_TO = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
export const PAYER = privateKeyToAccount(PAYER_KEY).address;

/** What the payer owns at the start, in atomic units (6 decimals): 1000 USDC. */
const PAYER_FUNDS = 1_000_000_000n;

const tokenAbi = parseAbi([
  "function mint(address to, uint256 value)",
  "function balanceOf(address) view returns (uint256)",
  "function authorizationState(address, bytes32) view returns (bool)",
]);

/** Starts anvil and prepares the contracts. */
export async function startChain() {
  const permit2 = permit2Code();
  return startAnvil(["--chain-id", String(baseSepolia.id), "--accounts", "3"], async (rpc) => placeContracts(rpc, await permit2));
}

/**
 * The code of the real Permit2. No package of ours has it but anvil itself, whose Tempo network starts with it, so a second
 * anvil is asked for it. What it keeps about the chain it was deployed on does not matter: elsewhere it computes its domain.
 */
async function permit2Code() {
  let code;
  const tempo = await startAnvil(["--network", "tempo"], async (rpc) => {
    code = await createPublicClient({ transport: http(rpc) }).getCode({ address: PERMIT2 });
  });
  await tempo.stop();
  if (!code || keccak256(code) !== PERMIT2_CODE_HASH) {
    throw new Error("this anvil has no Permit2, or another one than expected");
  }
  return code;
}

async function placeContracts(rpc, permit2) {
  const payer = connect(rpc, PAYER_KEY);
  const place = (address, code) => payer.request({ method: "anvil_setCode", params: [address, code] });
  for (const [name, address] of Object.entries(COMPILED)) {
    await place(address, JSON.parse(readFileSync(new URL(`../contracts/${name}.json`, import.meta.url))).runtime);
  }
  await place(PERMIT2, permit2);

  // The facilitator asks Multicall3 why a payment would fail. A call without a target runs creation code and returns
  // what it would deploy.
  const { data: multicall3 } = await payer.call({ data: multicall3Bytecode, account: null });
  await place(MULTICALL3, multicall3);

  const hash = await payer.writeContract({ address: TOKEN, abi: tokenAbi, functionName: "mint", args: [PAYER, PAYER_FUNDS] });
  await payer.waitForTransactionReceipt({ hash });
}

/** A viem client for `key` that reads and writes, with the `address` that the facilitator library wants beside it. */
export function connect(rpc, key) {
  const account = privateKeyToAccount(key);
  const client = createWalletClient({ account, chain: baseSepolia, transport: http(rpc), pollingInterval: 20 });
  return { ...client.extend(publicActions), address: account.address };
}

export const balanceOf = (client, owner) =>
  client.readContract({ address: TOKEN, abi: tokenAbi, functionName: "balanceOf", args: [owner] });

export const authorizationState = (client, payer, nonce) =>
  client.readContract({ address: TOKEN, abi: tokenAbi, functionName: "authorizationState", args: [payer, nonce] });
