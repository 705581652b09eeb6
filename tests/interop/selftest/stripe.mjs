// The smallest Stripe that can prove the seller: it issues tokens to the client's callback and cashes them once each. Its
// words are invented; what the seller sends and makes of an answer is not.
import { once } from "node:events";
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";

export async function fakeStripe() {
  /** token -> what it is good for */
  const tokens = new Map();
  /** idempotency key -> the form and its answer */
  const answered = new Map();
  const calls = [];

  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray()).toString();
    calls.push({ method: request.method, path: request.url, headers: request.headers, body });
    const key = request.headers["idempotency-key"];
    const earlier = answered.get(key);
    const answer = earlier ?? { body, ...cash(new URLSearchParams(body)) };
    answered.set(key, answer);
    response.writeHead(answer.status, { "content-type": "application/json", ...(earlier && { "idempotent-replayed": "true" }) });
    response.end(JSON.stringify(answer.object));
  });

  function cash(form) {
    const token = tokens.get(form.get("shared_payment_granted_token"));
    const refused = (message) => ({ status: 400, object: { error: { type: "invalid_request_error", message } } });
    if (!token) {
      return refused("No such token");
    }
    if (token.used) {
      return refused("The token was used");
    }
    if (token.expiresAt * 1000 <= Date.now()) {
      return refused("The token has expired");
    }
    if (token.currency !== form.get("currency") || Number(form.get("amount")) > token.amount) {
      return refused("The token is not good for this");
    }
    token.used = true;
    const id = `pi_${randomBytes(8).toString("hex")}`;
    return { status: 200, object: { id, object: "payment_intent", status: token.outcome ?? "succeeded" } };
  }

  function issue(token) {
    const spt = `spt_${randomBytes(8).toString("hex")}`;
    tokens.set(spt, { ...token, amount: Number(token.amount) });
    return spt;
  }

  await once(server.listen(0, "127.0.0.1"), "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, issue, calls, close: () => server.close() };
}
