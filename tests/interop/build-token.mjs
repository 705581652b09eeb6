// Compiles contracts/Token.sol into contracts/Token.json.
//
//   node build-token.mjs           write Token.json
//   node build-token.mjs --check   exit 1 if the committed Token.json is not what this compiler makes of Token.sol
//
// The bytecode is committed so that tests need no compiler; the check keeps it honest.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const settings = {
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 200 },
  // No metadata trailer: it would hash the source with its comments and change the code for a typo.
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "Token.sol": { Token: ["abi", "evm.deployedBytecode"] } },
};

const input = {
  language: "Solidity",
  sources: { "Token.sol": { content: readFileSync(here("contracts/Token.sol"), "utf8") } },
  settings,
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const problem of output.errors ?? []) {
  console.error(problem.formattedMessage);
}
if (output.errors?.length) {
  process.exit(1);
}

const { abi, evm } = output.contracts["Token.sol"].Token;
// anvil_setCode runs no constructor, which is what fills in immutables and link references.
if (Object.keys(evm.deployedBytecode.immutableReferences).length || Object.keys(evm.deployedBytecode.linkReferences).length) {
  console.error("Token.sol uses immutables or libraries; its code would not work when placed by anvil_setCode");
  process.exit(1);
}

const { outputSelection, ...published } = settings;
const text =
  JSON.stringify({ compiler: solc.version(), settings: published, abi, runtime: `0x${evm.deployedBytecode.object}` }, null, 1) + "\n";

const target = here("contracts/Token.json");
if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("contracts/Token.json does not match contracts/Token.sol; run: node build-token.mjs");
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
console.log(`Token: ${evm.deployedBytecode.object.length / 2} bytes, ${solc.version()}`);
