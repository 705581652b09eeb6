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
    const route = routes.get(name) ?? { requests: 0, with_payment: 0, answers: {}, payments: new Set(), transactions: new Set() };
    routes.set(name, route);
    route.requests += 1;

    const header = credentialOf(request);
    if (header !== undefined) {
      const signature = signatureIn(header);
      route.with_payment += 1;
      route.payments.add(signature);
      payments.add(signature);
    }
    // "close" and not "finish": a connection cut after settlement has to be counted as well.
    response.once("close", () => {
      const answer = response.headersSent && response.writableFinished ? String(response.statusCode) : "cut";
      route.answers[answer] = (route.answers[answer] ?? 0) + 1;
      const receipt = receiptOn(response);
      // A repeated answer repeats its receipt; one over nothing names no transaction.
      if (receipt?.success && receipt.transaction) {
        route.transactions.add(receipt.transaction);
      }
    });
    next();
  };
}

const shown = ({ payments, transactions, ...route }) => ({ ...route, distinct_payments: payments.size, settled: transactions.size });

/** Of whichever protocol; MPP's stand behind the scheme `Payment`. */
function credentialOf(request) {
  const own = ["payment-signature", "x-payment", "payment-authorization"].map((name) => request.get(name)).find(Boolean);
  const header = own ?? request.get("authorization");
  return own || /^payment /i.test(header ?? "") ? header.replace(/^payment /i, "") : undefined;
}

/** Two headers with one signature are one payment, whatever the order of their members. */
function signatureIn(header) {
  try {
    return JSON.parse(Buffer.from(header, "base64")).payload.signature.toLowerCase();
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
  const mpp = read("payment-receipt");
  return read("payment-response") ?? read("x-payment-response") ?? (mpp && { success: mpp.status === "success", transaction: mpp.reference });
}
