// Reading what the reference server answered.
import assert from "node:assert/strict";

export const receiptOf = (answer) => JSON.parse(Buffer.from(answer.headers.get("payment-receipt"), "base64url"));

/** No sale: the problem that the server names, no receipt, and a new challenge. */
export async function assertRefused(answer, status, code, detail) {
  const problem = await answer.json();
  assert.deepEqual([answer.status, problem.type], [status, `https://paymentauth.org/problems/${code}`], JSON.stringify(problem));
  assert.match(problem.detail, detail);
  assert.equal(answer.headers.has("payment-receipt"), false);
  assert.match(answer.headers.get("www-authenticate"), /^Payment /);
}
