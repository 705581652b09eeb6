// An identity server that is none of ours: npm's `oidc-provider` with CIBA (poll and ping), EdDSA and RFC 9396.
//
//   node ciba-provider.mjs --client ID --secret SECRET --ping URL [--jwks JSON]
//
// Knows two clients by that secret: ID polls, ID-ping is also called at URL. ID-jwt is known by the public keys in JSON alone. Prints one line of JSON, {"issuer", "resource"}, and
// then answers each line on its standard input with one line, until that closes:
//
//   {"handle": "...", "decide": "approve" | "deny"}   ->   {"question": the parameters that the person sees}
//
// With "alter": true the person approves other details than those that were asked for.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import Provider, { errors } from "oidc-provider";

const { values: { client, secret, ping, jwks } } = parseArgs({
  options: {
    client: { type: "string" },
    secret: { type: "string" },
    ping: { type: "string" },
    jwks: { type: "string", default: '{"keys":[]}' },
  },
});
// Standard output is for answers alone, and the package tells there and elsewhere of its defaults.
console.info = console.warn = () => {};
const CIBA = "urn:openid:params:grant-type:ciba";
// What an access token is for: the server puts it into `aud`, and signs only tokens that are for something.
const RESOURCE = "urn:bursar:approvals";
const SCOPE = "approve:payment";

const registered = (client_id, more) => ({
  client_id,
  client_secret: secret,
  grant_types: [CIBA],
  response_types: [],
  redirect_uris: [],
  id_token_signed_response_alg: "EdDSA",
  authorization_details_types: ["payment_initiation"],
  ...more,
});

const questions = new Map();
const server = createServer();
await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const key = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });

const provider = new Provider(issuer, {
  clients: [
    registered(client, { token_endpoint_auth_method: "client_secret_basic", backchannel_token_delivery_mode: "poll" }),
    registered(`${client}-ping`, {
      token_endpoint_auth_method: "client_secret_post",
      backchannel_token_delivery_mode: "ping",
      backchannel_client_notification_endpoint: ping,
    }),
    registered(`${client}-jwt`, {
      client_secret: undefined,
      jwks: JSON.parse(jwks),
      token_endpoint_auth_method: "private_key_jwt",
      backchannel_token_delivery_mode: "poll",
    }),
  ],
  jwks: { keys: [{ ...key, kid: "provider-1", use: "sig", alg: "EdDSA" }] },
  scopes: ["openid", SCOPE],
  findAccount: (_context, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  // The server's own refuses connections to loopback, and clients to be called other than by https.
  fetch: (url, options) => globalThis.fetch(url.replace("https:", "http:"), { ...options, dispatcher: undefined }),
  features: {
    devInteractions: { enabled: false },
    ciba: {
      enabled: true,
      deliveryModes: ["poll", "ping"],
      processLoginHint: (_context, hint) => (hint.startsWith("did:") ? hint : undefined),
      verifyUserCode: () => {},
      validateRequestContext: () => {},
      triggerAuthenticationDevice: (_context, request) => {
        questions.set(request.jti, request);
      },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: SCOPE, accessTokenFormat: "jwt", jwt: { sign: { alg: "EdDSA" } } }),
    },
    richAuthorizationRequests: {
      enabled: true,
      types: { payment_initiation: { validate: () => {} } },
      authorizationDetailsForGrantSource: (_context, source) => source.rar,
      authorizationDetailsForAccessToken: (_context, _token, source) => source.rar,
      authorizationDetailsForIntrospection: (_context, token) => token.rar,
    },
  },
});
provider.on("server_error", (_context, error) => console.error(error));
server.on("request", provider.callback());

async function decide({ handle, decide, alter }) {
  const request = questions.get(handle);
  const { params } = request;
  if (decide === "deny") {
    await provider.backchannelResult(request, new errors.AccessDenied("the person said no"));
    return params;
  }
  const grant = new provider.Grant({ clientId: request.clientId, accountId: request.accountId });
  grant.addOIDCScope("openid");
  grant.addResourceScope(RESOURCE, SCOPE);
  const rar = params.authorization_details && JSON.parse(params.authorization_details);
  for (const detail of rar ?? []) {
    if (alter) {
      detail.instructedAmount.amount = "1250.00";
    }
    grant.addRar(detail);
  }
  await grant.save();
  await provider.backchannelResult(request, grant, { rar });
  return params;
}

console.log(JSON.stringify({ issuer, resource: RESOURCE }));
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify({ question: await decide(JSON.parse(line)) }));
}
process.exit(0);
