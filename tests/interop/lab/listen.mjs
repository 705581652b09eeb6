// Binds an express application to a free port of loopback, with TLS when a certificate is given.
import { createServer as createPlain } from "node:http";
import { createServer as createTls } from "node:https";

/**
 * @param tls `{cert, key}` in PEM, or undefined for plain HTTP
 * @returns {Promise<string>} the origin, by the name `localhost` because test certificates carry that
 */
export async function listen(app, tls) {
  const server = tls ? createTls(tls, app) : createPlain(app);
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  return `${tls ? "https" : "http"}://localhost:${server.address().port}`;
}
