// What the `payment-identifier` extension asks of a seller. The reference middleware advertises it and leaves this to
// the application: an identifier is required, its repetition gets the first answer, and its reuse for another payment
// is a conflict.
import { createHash } from "node:crypto";
import { decodePaymentSignatureHeader } from "@x402/core/http";
import { extractPaymentIdentifier } from "@x402/extensions/payment-identifier";
import { succeeded } from "./seen.mjs";

export function idempotent() {
  /** identifier -> digest of the payment and, once answered, its receipt (undefined when it was not settled) */
  const purchases = new Map();

  return async (request, response, next) => {
    const header = request.get("payment-signature");
    if (header === undefined) {
      return next();
    }
    const identifier = identifierIn(header);
    if (identifier === null) {
      return response.status(400).json({ error: "payment-identifier is required" });
    }
    const digest = createHash("sha256").update(header).digest("hex");
    const earlier = purchases.get(identifier);
    if (earlier && earlier.digest !== digest) {
      return response.status(409).json({ error: "payment-identifier was used for another payment" });
    }
    response.locals.identified = { paid: true, path: "/id", identifier };
    const receipt = await earlier?.receipt;
    if (receipt) {
      return response.set("PAYMENT-RESPONSE", receipt).json(response.locals.identified);
    }

    const answered = new Promise((resolve) => {
      response.once("close", () => resolve(succeeded(response) ? String(response.getHeader("payment-response")) : undefined));
    });
    purchases.set(identifier, { digest, receipt: answered });
    next();
  };
}

function identifierIn(header) {
  try {
    return extractPaymentIdentifier(decodePaymentSignatureHeader(header));
  } catch {
    return null;
  }
}
