// What a seller saw and answered, so that a test can ask the other side and need not believe the proxy.
import { createHash } from "node:crypto";

/** Express middleware that counts every request, with `GET /_seen` (itself neither counted nor paid) to read it. */
export function seen() {
  const routes = new Map();
  const payments = new Set();

  return (request, response, next) => {
    if (request.path === "/_seen") {
      response.json({ distinct_payments: payments.size, routes: Object.fromEntries([...routes].map(([name, route]) => [name, shown(route)])) });
      return;
    }
    const name = `${request.method} ${request.path}`;
    const route = routes.get(name) ?? { requests: 0, with_payment: 0, answers: {}, payments: new Set(), receipts: new Map() };
    routes.set(name, route);
    route.requests += 1;

    const header = credentialOf(request);
    if (header !== undefined) {
      const payment = paymentIn(header);
      route.with_payment += 1;
      route.payments.add(payment);
      payments.add(payment);
    }
    // "close" and not "finish": a connection cut after settlement has to be counted as well.
    response.once("close", () => {
      const answer = response.headersSent && response.writableFinished ? String(response.statusCode) : "cut";
      route.answers[answer] = (route.answers[answer] ?? 0) + 1;
      const receipt = receiptOn(response);
      // A repeated answer repeats its receipt; one over nothing names no transaction.
      if (receipt?.success && receipt.transaction) {
        route.receipts.set(receipt.transaction, receipt.method);
      }
    });
    next();
  };
}

function shown({ payments, receipts, ...route }) {
  const settledBy = {};
  for (const method of receipts.values()) {
    settledBy[method] = (settledBy[method] ?? 0) + 1;
  }
  return { ...route, distinct_payments: payments.size, settled: receipts.size, settled_by: settledBy };
}

/** Of whichever protocol; MPP's stand behind the scheme `Payment`. */
function credentialOf(request) {
  const own = ["payment-signature", "x-payment", "payment-authorization"].map((name) => request.get(name)).find(Boolean);
  const header = own ?? request.get("authorization");
  return own || /^payment /i.test(header ?? "") ? header.replace(/^payment /i, "") : undefined;
}

/**
 * What can be cashed once is one payment, whatever the order of a header's members: an authorization's signature, a Tempo
 * transaction (its `signature` as well), a Stripe token.
 */
function paymentIn(header) {
  try {
    const { signature, spt } = JSON.parse(Buffer.from(header, "base64")).payload;
    if (typeof spt === "string") {
      return spt; // its case matters
    }
    return signature.toLowerCase();
  } catch {
    return createHash("sha256").update(header).digest("hex");
  }
}

/** Whether the answer carries a receipt that says success. */
export const succeeded = (response) => receiptOn(response)?.success === true;

function receiptOn(response) {
  const read = (name) => {
    const receipt = response.getHeader(name);
    return receipt && JSON.parse(Buffer.from(String(receipt), "base64"));
  };
  const x402 = read("payment-response") ?? read("x-payment-response");
  const mpp = read("payment-receipt"); // beside x402's own when a seller speaks both
  return x402 ? { ...x402, method: "x402" } : mpp && { success: mpp.status === "success", transaction: mpp.reference, method: mpp.method };
}
