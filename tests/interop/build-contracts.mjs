// Compiles each contract in contracts/*.sol into a file of its own, contracts/NAME.json.
//
//   node build-contracts.mjs           write them
//   node build-contracts.mjs --check   exit 1 if a committed file is not what this compiler makes of the sources
//
// The bytecode is committed so that tests need no compiler; the check keeps it honest.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import solc from "solc";

/** source -> the contracts in it that are placed on the chain */
const CONTRACTS = {
  "Token.sol": ["Token"],
  "Permit2Proxies.sol": ["ExactPermit2Proxy", "UptoPermit2Proxy"],
};

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const check = process.argv.includes("--check");

const settings = {
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 200 },
  // No metadata trailer: it would hash the source with its comments and change the code for a typo.
  metadata: { appendCBOR: false, bytecodeHash: "none" },
};
const wanted = ["abi", "evm.deployedBytecode"];

for (const [source, contracts] of Object.entries(CONTRACTS)) {
  const output = JSON.parse(solc.compile(JSON.stringify({
    language: "Solidity",
    sources: { [source]: { content: readFileSync(here(`contracts/${source}`), "utf8") } },
    settings: { ...settings, outputSelection: { [source]: Object.fromEntries(contracts.map((name) => [name, wanted])) } },
  })));
  for (const problem of output.errors ?? []) {
    console.error(problem.formattedMessage);
  }
  if (output.errors?.length) {
    process.exit(1);
  }
  for (const name of contracts) {
    publish(name, output.contracts[source][name]);
  }
}

function publish(name, { abi, evm: { deployedBytecode: { object, immutableReferences, linkReferences } } }) {
  // anvil_setCode runs no constructor, which is what fills in immutables and link references.
  if (Object.keys(immutableReferences).length || Object.keys(linkReferences).length) {
    console.error(`${name} uses immutables or libraries; its code would not work when placed by anvil_setCode`);
    process.exit(1);
  }
  const text = JSON.stringify({ compiler: solc.version(), settings, abi, runtime: `0x${object}` }, null, 1) + "\n";
  const target = here(`contracts/${name}.json`);
  if (!check) {
    writeFileSync(target, text);
  } else if (readFileSync(target, "utf8") !== text) {
    console.error(`contracts/${name}.json does not match its source; run: node build-contracts.mjs`);
    process.exit(1);
  }
  console.log(`${name}: ${object.length / 2} bytes, ${solc.version()}`);
}
