// An agent in Node: it fetches one URL and knows nothing about payments or proxies. All of that comes from its
// environment: HTTPS_PROXY, NO_PROXY, NODE_USE_ENV_PROXY=1, NODE_EXTRA_CA_CERTS.
//
//   node fetch.mjs URL [--post-file FILE]
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values, positionals: [url] } = parseArgs({ options: { "post-file": { type: "string" } }, allowPositionals: true });
const file = values["post-file"];

try {
  const response = await fetch(url, file === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/octet-stream" },
    body: readFileSync(file),
  });
  const body = Buffer.from(await response.arrayBuffer());
  console.log(JSON.stringify({
    status: response.status,
    headers: Object.fromEntries(response.headers),
    sha256: createHash("sha256").update(body).digest("hex"),
    length: body.length,
    body: body.subarray(0, 4096).toString(),
  }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message, cause: error.cause?.code ?? error.cause?.message ?? null }));
  process.exitCode = 1;
}
