// Proves that the paid repetition carried the same body and headers as the first attempt.
import { createHash } from "node:crypto";

export async function echo(request, response) {
  const digest = createHash("sha256");
  let length = 0;
  for await (const chunk of request) {
    digest.update(chunk);
    length += chunk.length;
  }
  response.json({ sha256: digest.digest("hex"), length, headers: [...new Set(Object.keys(request.headers))].sort() });
}
