// Proves the laboratory without the proxy: the reference clients buy from its sellers, the chain agrees, the agents
// obey their environment, and nothing is left running.
//
//   node selftest.mjs          (PYTHON=path for another python3; needs openssl on the PATH)
import assert from "node:assert/strict";
import { execFile, execFileSync, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { get } from "node:https";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodePaymentRequiredHeader, decodePaymentResponseHeader, decodePaymentSignatureHeader, encodePaymentSignatureHeader } from "@x402/core/http";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { appendPaymentIdentifierToExtensions, generatePaymentId } from "@x402/extensions/payment-identifier";
import { x402Client } from "@x402/fetch";
import { encodeEventTopics, parseAbi, parseEventLogs, parseSignature, toHex } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { authorizationState, balanceOf, connect, EXACT_PROXY, GAS_KEY, PERMIT2, UPTO_PROXY } from "./lab/chain.mjs";
import { proveMpp, proveMppAlone } from "./selftest/mpp.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { abi: tokenAbi } = JSON.parse(readFileSync(here("contracts/Token.json")));
const { abi: uptoAbi } = JSON.parse(readFileSync(here("contracts/UptoPermit2Proxy.json")));
const permit2Abi = parseAbi([
  "function DOMAIN_SEPARATOR() view returns (bytes32)",
  "function nonceBitmap(address owner, uint256 word) view returns (uint256)",
  "function invalidateUnorderedNonces(uint256 word, uint256 mask)",
  "event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask)",
]);
const TYPES = { from: "address", to: "address", authorizer: "address", owner: "address", spender: "address" };
const python = process.env.PYTHON ?? "python3";

// Nothing but what a step names reaches a child: a proxy or a certificate of this machine would falsify the result.
const bare = { PATH: process.env.PATH };

const work = mkdtempSync(join(tmpdir(), "bursar-interop-"));
const cert = join(work, "cert.pem");
const key = join(work, "key.pem");
execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
  "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert], { stdio: "ignore" });

let failed = 0;
/** What the laboratories wrote to their standard error: sellers complain of every sale that is meant to fail. */
let complaints = "";

async function step(name, prove) {
  try {
    const said = await prove();
    console.log(`ok      ${name}${said ? ` (${said})` : ""}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}

const started = performance.now();
const { lab, child } = await startLab("--cert", cert, "--key", key);
console.log(`ready after ${Math.round(performance.now() - started)} ms: ${JSON.stringify(lab)}`);
const chain = connect(lab.rpc, lab.payerKey);

await step("token: the domain is that of the real token, and every way to use up an authorization is final", async () => {
  // Known answer: the domain separator of USDC on Base Sepolia.
  assert.equal(await token("DOMAIN_SEPARATOR"), "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818");
  const before = await balanceOf(chain, lab.payTo);
  const inAMinute = BigInt(Math.floor(Date.now() / 1000) + 60);
  const fresh = () => ({ from: lab.payer, to: lab.payTo, value: 7n, validAfter: 0n, validBefore: inAMinute, nonce: `0x${randomBytes(32).toString("hex")}` });

  const used = fresh();
  const signature = await signed("TransferWithAuthorization", used);
  await send("transferWithAuthorization", ...Object.values(used), signature);
  await assert.rejects(send("transferWithAuthorization", ...Object.values(used), signature), /authorization is used or canceled/);

  const cancelled = fresh();
  const authorizer = { authorizer: lab.payer, nonce: cancelled.nonce };
  await send("cancelAuthorization", ...Object.values(authorizer), await signed("CancelAuthorization", authorizer));
  await assert.rejects(send("transferWithAuthorization", ...Object.values(cancelled), await signed("TransferWithAuthorization", cancelled)), /used or canceled/);

  const stale = { ...fresh(), validBefore: 1n };
  await assert.rejects(send("transferWithAuthorization", ...Object.values(stale), await signed("TransferWithAuthorization", stale)), /authorization is expired/);
  const early = { ...fresh(), validAfter: inAMinute };
  await assert.rejects(send("transferWithAuthorization", ...Object.values(early), await signed("TransferWithAuthorization", early)), /not yet valid/);
  const raised = { ...fresh(), value: 8n };
  await assert.rejects(send("transferWithAuthorization", ...Object.values(raised), await signed("TransferWithAuthorization", { ...raised, value: 7n })), /invalid signature/);

  const pulled = { ...fresh(), to: lab.payer };
  const { r, s, v } = parseSignature(await signed("ReceiveWithAuthorization", pulled));
  await send("receiveWithAuthorization", ...Object.values(pulled), Number(v), r, s);
  assert.equal(await authorizationState(chain, lab.payer, pulled.nonce), true);
  assert.equal(await balanceOf(chain, lab.payTo) - before, 7n);
});

await step("token: a permit allows what it says, once and in time", async () => {
  const inAMinute = BigInt(Math.floor(Date.now() / 1000) + 60);
  const permit = { owner: lab.payer, spender: lab.payTo, value: 7n, nonce: await token("nonces", lab.payer), deadline: inAMinute };
  const bring = ({ nonce, ...given }, signature) => send("permit", ...Object.values(given), signature);

  const stale = { ...permit, deadline: 1n };
  await assert.rejects(bring(stale, await signed("Permit", stale)), /permit is expired/);
  await assert.rejects(bring({ ...permit, value: 8n }, await signed("Permit", permit)), /invalid signature/);
  const { r, s, v } = parseSignature(await signed("Permit", permit));
  await send("permit", lab.payer, lab.payTo, 7n, inAMinute, Number(v), r, s);
  assert.equal(await token("allowance", lab.payer, lab.payTo), 7n);
  await assert.rejects(bring(permit, await signed("Permit", permit)), /invalid signature/);
  await send("approve", lab.payTo, 0n);
});

await step("v2: /paid costs 10000 and the receipt names a used nonce", async () => {
  const { outcome, moved } = await buy(`${lab.v2}/paid`);
  assert.equal(outcome.paid, 1, outcome.first_failure);
  assert.equal(moved, 10_000n);
  const { settlements: [settlement] } = await read(`${lab.facilitator}/_seen`);
  assert.equal(settlement.transaction, outcome.last.receipt.transaction);
  assert.equal(await authorizationState(chain, lab.payer, settlement.nonce), true);
  return settlement.transaction;
});

await step("v1: /v1/paid costs 10000", async () => {
  const { outcome, moved } = await buy(`${lab.v1}/v1/paid`);
  assert.equal(outcome.paid, 1, outcome.first_failure);
  assert.equal(moved, 10_000n);
  return outcome.last.receipt.transaction;
});

await step("v2: /stream and /upfront are paid and complete", async () => {
  const stream = await buy(`${lab.v2}/stream`);
  assert.equal(stream.moved, 10_000n);
  assert.equal(stream.outcome.last.body.match(/event: tick/g).length, 5);
  assert.equal((await buy(`${lab.v2}/upfront`)).moved, 10_000n);
});

await step("v2: /multi sells the first offer that the payer may use", async () => {
  assert.equal((await buy(`${lab.v2}/multi`, "--network", "eip155:84532")).moved, 20_000n);
});

await step("v2: /dear is above what the reference client spends by itself", async () => {
  const { outcome, moved } = await buy(`${lab.v2}/dear`);
  assert.match(outcome.first_failure, /spendControls/);
  assert.equal(moved, 0n);
});

await step("v2: /broken verifies and does not settle; /lost settles and does not answer", async () => {
  const broken = await buy(`${lab.v2}/broken`);
  assert.equal(broken.outcome.last.status, 500);
  assert.equal(broken.moved, 0n);
  const lost = await buy(`${lab.v2}/lost`);
  assert.equal(lost.outcome.last, null);
  assert.equal(lost.moved, 10_000n);
});

await step("v2: a payer without money is told so (the diagnosis needs Multicall3)", async () => {
  const outcome = await referencePayer(`${lab.v2}/paid`, generatePrivateKey());
  assert.match(outcome.first_failure, /insufficient_balance/);
});

await step("v2: /id wants an identifier, repeats its answer, refuses another payment under it", async () => {
  const before = await balanceOf(chain, lab.payTo);
  const identifier = generatePaymentId();
  const first = await signedFor(`${lab.v2}/id`, identifier);
  const answers = [];
  for (const payment of [await signedFor(`${lab.v2}/id`, null), first, first, await signedFor(`${lab.v2}/id`, identifier)]) {
    answers.push(await request(`${lab.v2}/id`, { "payment-signature": payment }));
  }
  assert.deepEqual(answers.map(({ status }) => status), [400, 200, 200, 409]);
  assert.equal(answers[2].headers["payment-response"], answers[1].headers["payment-response"]);
  assert.equal(await balanceOf(chain, lab.payTo) - before, 10_000n);
});

await step("permit2: without an allowance the answer is 412; a sponsored permit is enough, and is used up", async () => {
  // Known answer, as in the vectors: the domain of Permit2 on Base Sepolia.
  const domain = await chain.readContract({ address: PERMIT2, abi: permit2Abi, functionName: "DOMAIN_SEPARATOR" });
  assert.equal(domain, "0x010f27a92fb9a32622f44f001dc4d15706a85b33499cfc2ce9033113ab26592c");

  for (const path of ["/permit2", "/upto"]) {
    const { outcome, moved } = await buy(`${lab.v2}${path}`, "--rpc", lab.rpc);
    assert.deepEqual([outcome.last.status, outcome.last.refused, moved], [412, "permit2_allowance_required", 0n]);
  }
  // Without a chain the reference client does not know that it has to sign a permit.
  const blind = await buy(`${lab.v2}/permit2-sponsored`);
  assert.deepEqual([blind.outcome.last.status, blind.moved], [412, 0n]);

  const permits = await token("nonces", lab.payer);
  const { outcome, moved } = await buy(`${lab.v2}/permit2-sponsored`, "--rpc", lab.rpc);
  assert.equal(outcome.paid, 1, outcome.first_failure);
  assert.equal(moved, 10_000n);
  assert.equal(await token("allowance", lab.payer, PERMIT2), 0n);
  assert.equal(await token("nonces", lab.payer) - permits, 1n);
});

await step("permit2: /permit2 costs 10000, /upto what its handler says, and the chain tells it of the nonce alone", async () => {
  await send("approve", PERMIT2, 1_000_000n);
  for (const [path, value, amount] of [["/permit2", 10_000n, undefined], ["/upto", 20_000n, "20000"], ["/permit2-sponsored", 10_000n, undefined]]) {
    const { outcome, moved } = await buy(`${lab.v2}${path}`, "--rpc", lab.rpc);
    assert.equal(outcome.paid, 1, outcome.first_failure);
    assert.equal(moved, value);
    const { transaction, amount: said } = outcome.last.receipt;
    assert.equal(said, amount);
    const settlement = (await read(`${lab.facilitator}/_seen`)).settlements.find((one) => one.transaction === transaction);
    assert.deepEqual(await takenUnder(settlement.nonce), [{ transaction, value }]);
    // Permit2 is silent: the token tells of the transfer, the proxy that it settled something.
    const { logs } = await chain.getTransactionReceipt({ hash: transaction });
    const proxy = path === "/upto" ? UPTO_PROXY : EXACT_PROXY;
    assert.deepEqual(logs.map(({ address }) => address), [lab.token, proxy].map((address) => address.toLowerCase()));
    assert.deepEqual([logs[1].topics, logs[1].data], [encodeEventTopics({ abi: uptoAbi, eventName: "Settled" }), "0x"]);
  }
  assert.equal(await token("allowance", lab.payer, PERMIT2), 1_000_000n - 40_000n);
});

await step("permit2: an upto receipt over nothing does not end what was signed", async () => {
  const before = await balanceOf(chain, lab.payTo);
  const payment = await signedFor(`${lab.v2}/upto-nothing`, null);
  const answer = await request(`${lab.v2}/upto-nothing`, { "payment-signature": payment });
  assert.equal(answer.status, 200);
  const { success, transaction, amount } = decodePaymentResponseHeader(answer.headers["payment-response"]);
  assert.deepEqual([success, transaction, amount], [true, "", "0"]);
  assert.equal(answer.headers["settlement-overrides"], undefined);

  const { signature, permit2Authorization: { permitted, nonce, deadline, witness, from } } = decodePaymentSignatureHeader(payment).payload;
  assert.equal(await used(from, nonce), false);
  assert.equal(await balanceOf(chain, lab.payTo), before);

  const settle = async (client, changes = {}) => {
    const { taken = 50_000n, to = witness.to } = changes;
    const args = [{ permitted, nonce, deadline }, taken, from, { ...witness, to }, signature];
    const hash = await client.writeContract({ address: UPTO_PROXY, abi: uptoAbi, functionName: "settle", args });
    await client.waitForTransactionReceipt({ hash });
  };
  const gas = connect(lab.rpc, GAS_KEY);
  await assert.rejects(settle(chain), /UnauthorizedFacilitator/);
  await assert.rejects(settle(gas, { taken: 50_001n }), /AmountExceedsPermitted/);
  await assert.rejects(settle(gas, { to: gas.address }), /0x815e1d64/); // InvalidSigner of Permit2
  await settle(gas);
  assert.equal(await balanceOf(chain, lab.payTo) - before, 50_000n);
  assert.equal((await takenUnder(nonce))[0].value, 50_000n);
  await assert.rejects(settle(gas), /0x756688fe/); // InvalidNonce of Permit2
});

await step("permit2: a cancelled nonce has its bit set without a transfer, and Permit2 logs it", async () => {
  const payment = await signedFor(`${lab.v2}/permit2`, null);
  const nonce = BigInt(decodePaymentSignatureHeader(payment).payload.permit2Authorization.nonce);
  const cancelled = [nonce >> 8n, 1n << (nonce & 255n)];
  const hash = await chain.writeContract({ address: PERMIT2, abi: permit2Abi, functionName: "invalidateUnorderedNonces", args: cancelled });
  const { logs } = await chain.waitForTransactionReceipt({ hash });
  const [{ eventName, args: { owner, word, mask } }] = parseEventLogs({ abi: permit2Abi, logs });
  assert.deepEqual([eventName, owner, word, mask], ["UnorderedNonceInvalidation", lab.payer, ...cancelled]);
  assert.deepEqual(await takenUnder(nonce), []);
  assert.equal((await request(`${lab.v2}/permit2`, { "payment-signature": payment })).status, 402);
});

await step("v2: 40 purchases by 8 clients are 40 settlements", async () => {
  const earlier = (await read(`${lab.v2}/_seen`)).routes["GET /paid"];
  const { outcome, moved } = await buy(`${lab.v2}/paid`, "--count", "40", "--clients", "8");
  assert.equal(outcome.paid, 40, outcome.first_failure);
  assert.equal(moved, 400_000n);
  const now = (await read(`${lab.v2}/_seen`)).routes["GET /paid"];
  assert.equal(now.settled - earlier.settled, 40);
  assert.equal(now.distinct_payments - earlier.distinct_payments, 40);
  return `${Math.round(outcome.wall_ms)} ms`;
});

await step("both agents go through the proxy of their environment, trust its authority, and do not pay", async () => {
  const proxy = await connectProxy();
  const file = join(work, "upload");
  writeFileSync(file, randomBytes(300_000));
  for (const agent of [[lab.node, here("agents/fetch.mjs")], [python, here("agents/requests_get.py")]]) {
    const tunnels = proxy.tunnels();
    const free = await runAgent(agent, proxy.url, `${lab.v2}/free`);
    assert.equal(free.status, 200, JSON.stringify(free));
    assert.equal(free.body, '{"free":true}');
    assert.equal(free.sha256, createHash("sha256").update(free.body).digest("hex"));
    const refused = await runAgent(agent, proxy.url, `${lab.v2}/echo`, "--post-file", file);
    assert.equal(refused.status, 402, JSON.stringify(refused));
    assert.equal(decodePaymentRequiredHeader(refused.headers["payment-required"]).accepts[0].amount, "10000");
    assert.equal(proxy.tunnels() - tunnels, 2);
  }
  proxy.close();
});

await step("the laboratory ends with its standard input", async () => {
  child.stdin.end();
  assert.deepEqual(await once(child, "exit", { signal: AbortSignal.timeout(10_000) }), [0, null]);
  await refusesConnections(lab.rpc);
});

await step("every anvil ends with a laboratory that was killed", async () => {
  const second = await startLab("--tempo");
  second.child.kill("SIGKILL");
  await refusesConnections(second.lab.rpc);
  await refusesConnections(second.lab.tempo.rpc);
});

await proveMpp(step, startLab);
await proveMppAlone(step, startLab);

rmSync(work, { recursive: true });
if (failed) {
  console.error(complaints);
}
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);

async function startLab(...options) {
  const child = spawn(process.execPath, [here("lab.mjs"), ...options], { env: bare, stdio: ["pipe", "pipe", "pipe"] });
  child.stderr.setEncoding("utf8").on("data", (chunk) => { complaints += chunk; });
  let text = "";
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
    text += chunk;
    if (text.endsWith("\n")) {
      return { child, lab: JSON.parse(text) };
    }
  }
  throw new Error(`the laboratory ended before it was ready\n${complaints}`);
}

/** Signs for the token, as the payer. */
function signed(primaryType, message) {
  // EIP-3009 calls 32 random bytes a nonce, EIP-2612 a number that counts up.
  const type = (name) => (name === "nonce" && primaryType !== "Permit" ? "bytes32" : TYPES[name] ?? "uint256");
  return chain.account.signTypedData({
    domain: { name: "USDC", version: "2", chainId: 84532, verifyingContract: lab.token },
    types: { [primaryType]: Object.keys(message).map((name) => ({ name, type: type(name) })) },
    primaryType,
    message,
  });
}

/** Whether Permit2 has used up `nonce` of `owner`, as of a block. */
async function used(owner, nonce, blockNumber) {
  const args = [owner, BigInt(nonce) >> 8n];
  const word = await chain.readContract({ address: PERMIT2, abi: permit2Abi, functionName: "nonceBitmap", args, blockNumber });
  return ((word >> (BigInt(nonce) & 255n)) & 1n) === 1n;
}

/**
 * What the payer paid under a Permit2 nonce, by the chain alone. Permit2 logs no signature transfer, but a bit once set stays
 * set: so the block can be found by halving, in it the token's transfers from payer to payee, and among their transactions
 * those that carry the nonce.
 */
async function takenUnder(nonce) {
  let [unused, block] = [0n, await chain.getBlockNumber()];
  assert.equal(await used(lab.payer, nonce, block), true);
  while (block - unused > 1n) {
    const middle = (unused + block) / 2n;
    if (await used(lab.payer, nonce, middle)) {
      block = middle;
    } else {
      unused = middle;
    }
  }
  const [event] = tokenAbi.filter(({ type, name }) => type === "event" && name === "Transfer");
  const transfers = await chain.getLogs({ address: lab.token, event, args: { from: lab.payer, to: lab.payTo }, fromBlock: block, toBlock: block });
  const carries = await Promise.all(transfers.map(async ({ transactionHash: hash }) =>
    (await chain.getTransaction({ hash })).input.includes(toHex(BigInt(nonce), { size: 32 }).slice(2))));
  return transfers.filter((_, i) => carries[i]).map(({ transactionHash, args: { value } }) => ({ transaction: transactionHash, value }));
}

function token(functionName, ...args) {
  return chain.readContract({ address: lab.token, abi: tokenAbi, functionName, args });
}

async function send(functionName, ...args) {
  const hash = await chain.writeContract({ address: lab.token, abi: tokenAbi, functionName, args });
  assert.equal((await chain.waitForTransactionReceipt({ hash })).status, "success");
}

/** Buys with the payer's key; `moved` is what the payee really got. */
async function buy(url, ...options) {
  const before = await balanceOf(chain, lab.payTo);
  const outcome = await referencePayer(url, lab.payerKey, ...options);
  return { outcome, moved: await balanceOf(chain, lab.payTo) - before };
}

function referencePayer(url, payerKey, ...options) {
  return json(lab.node, [here("reference-payer.mjs"), "--url", url, "--key", payerKey, "--ca", cert, ...options], bare);
}

function runAgent([program, script], proxy, ...options) {
  return json(program, [script, ...options], {
    ...bare, HTTPS_PROXY: proxy, NODE_USE_ENV_PROXY: "1", NODE_EXTRA_CA_CERTS: cert, SSL_CERT_FILE: cert, REQUESTS_CA_BUNDLE: cert,
  });
}

/** The one JSON line of a child. Its exit code is the step's business: some children are meant to fail. */
function json(program, args, env) {
  return new Promise((resolve, reject) => {
    execFile(program, args, { env, timeout: 60_000 }, (error, stdout, stderr) => {
      try {
        resolve(JSON.parse(stdout));
      } catch {
        reject(error ?? new Error(`${program} printed no JSON: ${stdout}${stderr}`));
      }
    });
  });
}

/** A payment header for `url`, signed by the payer, under `identifier` unless that is null. */
async function signedFor(url, identifier) {
  const challenge = decodePaymentRequiredHeader((await request(url)).headers["payment-required"]);
  if (identifier !== null) {
    appendPaymentIdentifierToExtensions(challenge.extensions, identifier);
  }
  const signer = privateKeyToAccount(lab.payerKey);
  const client = registerExactEvmScheme(new x402Client(), { signer }).register("eip155:*", new UptoEvmScheme(signer));
  return encodePaymentSignatureHeader(await client.createPaymentPayload(challenge));
}

/** Not `fetch`, because that takes an extra authority only from the environment. */
function request(url, headers = {}) {
  return new Promise((resolve, reject) => {
    get(url, { headers, ca: readFileSync(cert) }, async (response) => {
      const body = Buffer.concat(await response.toArray()).toString();
      resolve({ status: response.statusCode, headers: response.headers, body });
    }).once("error", reject);
  });
}

async function read(url) {
  return url.startsWith("https:") ? JSON.parse((await request(url)).body) : (await fetch(url)).json();
}

/** The smallest forward proxy: it only tunnels, and counts. */
async function connectProxy() {
  let tunnels = 0;
  const server = createServer().on("connect", (request, client) => {
    tunnels += 1;
    const [host, port] = request.url.split(":");
    const upstream = connectTcp(port, host, () => {
      client.write("HTTP/1.1 200 Connection Established\r\n\r\n");
      upstream.pipe(client).pipe(upstream);
    });
    upstream.on("error", () => client.destroy());
    client.on("error", () => upstream.destroy());
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, tunnels: () => tunnels, close: () => server.close() };
}

/** Resolves once nothing listens at `url` any more. */
async function refusesConnections(url) {
  const { hostname, port } = new URL(url);
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const socket = connectTcp(port, hostname);
    const refused = await Promise.race([once(socket, "connect").then(() => false), once(socket, "error").then(() => true)]).catch(() => true);
    socket.destroy();
    if (refused) {
      return;
    }
  }
  throw new Error(`${url} still accepts connections`);
}
