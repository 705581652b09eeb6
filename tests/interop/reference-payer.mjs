// The reference client, `@x402/fetch`, buying one URL many times: what the proxy is compared with. It needs a chain
// (`--rpc`) only to see whether Permit2 lacks an allowance that the seller offers to sponsor.
//
//   node reference-payer.mjs --url URL --count N --clients C --key 0x... [--ca FILE] [--network eip155:84532] [--rpc URL]
//
// `--clients` loops share the N purchases. `--network` narrows what the client is able to pay (all EVM networks
// otherwise). Its own spend controls stay on: known tokens, at most $1 per payment. `--ca` needs Node 22.19 or newer.
// Prints one line of JSON; exit code 1 when any purchase failed.
import { readFileSync } from "node:fs";
import tls from "node:tls";
import { parseArgs } from "node:util";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const { values } = parseArgs({
  options: {
    url: { type: "string" },
    count: { type: "string", default: "1" },
    clients: { type: "string", default: "1" },
    key: { type: "string" },
    ca: { type: "string" },
    network: { type: "string", multiple: true },
    rpc: { type: "string" },
  },
});
const count = Number(values.count);
const clients = Number(values.clients);
if (!values.url || !values.key || !(count > 0) || !(clients > 0)) {
  console.error("usage: reference-payer.mjs --url URL --count N --clients C --key 0x... [--ca FILE] [--network CAIP2] [--rpc URL]");
  process.exit(2);
}
if (values.ca) {
  // NODE_EXTRA_CA_CERTS is read before any of our code runs, so an option has to use this instead.
  tls.setDefaultCACertificates([...tls.getCACertificates("default"), readFileSync(values.ca, "utf8")]);
}

const client = new x402Client();
const signer = privateKeyToAccount(values.key);
const schemeOptions = values.rpc && { rpcUrl: values.rpc };
registerExactEvmScheme(client, { signer, networks: values.network, schemeOptions });
for (const network of values.network ?? ["eip155:*"]) {
  client.register(network, new UptoEvmScheme(signer, schemeOptions));
}
const pay = wrapFetchWithPayment(fetch, client);

const latencies = [];
const failures = [];
let remaining = count;
let last = null;

async function buyUntilDone() {
  while (remaining > 0) {
    remaining -= 1;
    const started = performance.now();
    try {
      const response = await pay(values.url);
      const body = await response.text();
      const receipt = response.headers.get("payment-response") ?? response.headers.get("x-payment-response");
      const challenge = response.headers.get("payment-required");
      last = {
        status: response.status,
        receipt: receipt && decodePaymentResponseHeader(receipt),
        refused: challenge && decodePaymentRequiredHeader(challenge).error,
        body: body.slice(0, 4096),
      };
      if (response.status === 200 && last.receipt?.success) {
        latencies.push(performance.now() - started);
      } else {
        failures.push(`status ${response.status}: ${last.refused ?? last.receipt?.errorReason ?? "no receipt"}`);
      }
    } catch (error) {
      failures.push(error.cause ? `${error.message}: ${error.cause.message}` : error.message);
    }
  }
}

const cpuBefore = process.cpuUsage();
const started = performance.now();
await Promise.all(Array.from({ length: clients }, buyUntilDone));
const wall = performance.now() - started;
const cpu = process.cpuUsage(cpuBefore);

latencies.sort((a, b) => a - b);
const percentile = (p) => round(latencies[Math.max(0, Math.ceil((latencies.length * p) / 100) - 1)] ?? 0);
console.log(JSON.stringify({
  wall_ms: round(wall),
  paid: latencies.length,
  failed: failures.length,
  cpu_user_ms: round(cpu.user / 1000),
  cpu_system_ms: round(cpu.system / 1000),
  p50_ms: percentile(50),
  p99_ms: percentile(99),
  first_failure: failures[0] ?? null,
  last,
}));
process.exitCode = failures.length ? 1 : 0;

function round(milliseconds) {
  return Math.round(milliseconds * 1000) / 1000;
}
