// anvil on a free port, on a leash: however this process ends, its chains end with it.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const binary = fileURLToPath(new URL("../node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil", import.meta.url));

// anvil cannot notice that its parent died. The shell can: its standard input is a pipe that only we hold, so it sees
// the end of it however we end, SIGKILL included, and takes anvil with it. The shell lets go of its own output so that
// the end of anvil's output still means the end of anvil.
const LEASH = '"$@" </dev/null & child=$!; exec >/dev/null 2>&1; cat; kill -9 $child; wait $child';

/**
 * @param options what anvil is told besides where to listen
 * @param prepare called with the chain's address before the chain counts as started; its failure stops the chain
 * @returns {Promise<{rpc: string, stop: () => Promise<void>, died: Promise<void>}>}
 */
export async function startAnvil(options, prepare) {
  const child = spawn("/bin/sh", ["-c", LEASH, "sh", binary, "--host", "127.0.0.1", "--port", "0", ...options], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  child.stdin.on("error", () => {}); // the shell is gone already; `died` tells
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const died = new Promise((resolve) => child.stdout.once("close", resolve));
  const stop = async () => {
    child.stdin.end();
    await exited;
  };

  const rpc = await Promise.race([
    listening(child.stdout),
    died.then(() => Promise.reject(new Error("anvil ended before it listened"))),
  ]);
  try {
    await prepare(rpc);
  } catch (error) {
    await stop();
    throw error;
  }
  return { rpc, stop, died };
}

/** Keeps reading after the address was found: anvil logs every call, and a full pipe would block it. */
function listening(output) {
  return new Promise((resolve) => {
    let text = "";
    const look = (chunk) => {
      text += chunk;
      const address = /Listening on (\S+)/.exec(text)?.[1];
      if (address) {
        output.off("data", look);
        output.resume();
        resolve(`http://${address}`);
      }
    };
    output.on("data", look);
  });
}
