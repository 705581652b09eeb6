// What npm's `stripe` says about requests and answers of Stripe's shared payment tokens.
//
//   node stripe-shapes.mjs check  < [{"type", "value"}, ...]
//       Type-checks each JSON value against a type of the package, excess members refused, and prints one line of JSON: for each
//       value the compiler's complaints, none when it fits. Types: see TYPES.
//   node stripe-shapes.mjs drive --url URL --agent-key KEY --seller-key KEY --seller PROFILE
//       Issues, retrieves, charges and revokes tokens through the package's client, and sells through mppx's server with it,
//       at the Stripe that answers there. Prints one line of JSON with what came back.
//   node stripe-shapes.mjs buy --url URL --agent-key KEY
//       Buys what is sold at URL by mppx's client, with a token that the package's client orders from the Stripe under the same
//       origin; then presents the same credential again. Prints one line of JSON with what came back.
//
// Exit code 2: asked wrongly. Anything else that fails is an exception.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const TYPES = {
  IssuedTokenCreateParams: "Stripe.SharedPayment.IssuedTokenCreateParams",
  GrantedTokenCreateParams: `Parameters<Stripe["testHelpers"]["sharedPayment"]["grantedTokens"]["create"]>[0]`,
  IssuedToken: "Stripe.SharedPayment.IssuedToken",
  GrantedToken: "Stripe.SharedPayment.GrantedToken",
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string" },
    "agent-key": { type: "string" },
    "seller-key": { type: "string" },
    seller: { type: "string" },
  },
});

switch (positionals[0]) {
  case "check":
    console.log(JSON.stringify(await check(JSON.parse(readFileSync(0, "utf8")))));
    break;
  case "drive":
    console.log(JSON.stringify(await drive()));
    break;
  case "buy":
    console.log(JSON.stringify(await buy()));
    break;
  default:
    console.error("usage: stripe-shapes.mjs check | drive --url URL --agent-key KEY --seller-key KEY --seller PROFILE | buy --url URL --agent-key KEY");
    process.exit(2);
}

/** One program with one source file for each value: a JSON literal is a fresh object, so excess members are errors. */
async function check(cases) {
  const { default: ts } = await import("typescript");
  const options = {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    strict: true,
    noEmit: true,
    // The package's own declarations want @types/node, which is not what is checked.
    skipLibCheck: true,
    types: [],
  };
  const here = fileURLToPath(new URL(".", import.meta.url));
  const sources = new Map(cases.map(({ type, value }, at) => {
    if (!(type in TYPES)) throw new Error(`no type ${type}`);
    const text = `import type { Stripe } from "stripe";\nexport const value: ${TYPES[type]} = ${JSON.stringify(value)};\n`;
    return [`${here}case-${at}.mts`, text];
  }));
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (name) => sources.has(name) || fileExists.call(host, name);
  host.readFile = (name) => sources.get(name) ?? readFile.call(host, name);
  host.getSourceFile = (name, version, ...rest) => sources.has(name)
    ? ts.createSourceFile(name, sources.get(name), version)
    : getSourceFile.call(host, name, version, ...rest);
  const program = ts.createProgram([...sources.keys()], options, host);
  return [...sources.keys()].map((name) => {
    const file = program.getSourceFile(name);
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)]
      .map((diagnostic) => ({ code: diagnostic.code, text: ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n") }));
  });
}

function stripeAt(url) {
  return { host: url.hostname, port: url.port, protocol: url.protocol.slice(0, -1), telemetry: false };
}

async function drive() {
  const { default: Stripe } = await import("stripe");
  const service = stripeAt(new URL(values.url));
  const agent = new Stripe(values["agent-key"], service);
  const seller = new Stripe(values["seller-key"], service);
  const order = (payment_method, more) => ({
    payment_method,
    usage_limits: { currency: "usd", max_amount: 100, expires_at: Math.floor(Date.now() / 1000) + 300 },
    seller_details: { network_business_profile: values.seller },
    ...more,
  });
  const issue = async (card) => (await agent.sharedPayment.issuedTokens.create(order(card))).id;
  const refused = async (promise) => {
    try {
      await promise;
    } catch (error) {
      return { type: error.type, code: error.code, param: error.param, status: error.statusCode, decline: error.decline_code };
    }
    throw new Error("not refused");
  };
  const said = {};

  said.issued = await agent.sharedPayment.issuedTokens.create(order("pm_card_visa", { shared_metadata: { plan: "pro" } }));
  said.retrieved = await agent.sharedPayment.issuedTokens.retrieve(said.issued.id);
  said.granted = await seller.sharedPayment.grantedTokens.retrieve(said.issued.id);
  said.revoked = await agent.sharedPayment.issuedTokens.revoke(said.issued.id);
  said.waiting = await agent.sharedPayment.issuedTokens.create(order("pm_card_authenticationRequired"));
  said.helped = await seller.testHelpers.sharedPayment.grantedTokens.create({
    payment_method: "pm_card_visa",
    usage_limits: { currency: "usd", max_amount: 100 },
  });
  said.unhelped = await seller.testHelpers.sharedPayment.grantedTokens.revoke(said.helped.id);

  // By the newer name, as the types have it.
  const nested = await issue("pm_card_visa");
  said.intent = await seller.paymentIntents.create({
    amount: 60,
    currency: "usd",
    confirm: true,
    automatic_payment_methods: { enabled: true, allow_redirects: "never" },
    payment_method_data: { shared_payment_granted_token: nested },
  });
  said.consumed = await agent.sharedPayment.issuedTokens.retrieve(nested);
  said.charged = await seller.sharedPayment.grantedTokens.retrieve(nested);

  said.declined = await refused(agent.sharedPayment.issuedTokens.create(order("pm_card_chargeDeclined")));
  said.unknown = await refused(agent.sharedPayment.issuedTokens.create(order("pm_card_visa", { livemode: true })));
  said.nobody = await refused(agent.sharedPayment.issuedTokens.create(order("pm_card_visa", {
    seller_details: { network_business_profile: "profile_nobody" },
  })));
  said.lost = await refused(agent.sharedPayment.issuedTokens.retrieve("spt_nobody"));
  said.late = await refused(agent.sharedPayment.issuedTokens.revoke(nested));
  const stranger = new Stripe("sk_test_stranger", service);
  said.stranger = await refused(stranger.sharedPayment.issuedTokens.retrieve(nested));
  const released = new Stripe(values["agent-key"], { ...service, apiVersion: "2025-03-31.basil" });
  said.released = await refused(released.sharedPayment.issuedTokens.retrieve(nested));
  const key = { idempotencyKey: "stripe-shapes" };
  await agent.sharedPayment.issuedTokens.create(order("pm_card_visa"), key);
  const other = order("pm_card_visa", { shared_metadata: { plan: "other" } });
  said.conflict = await refused(agent.sharedPayment.issuedTokens.create(other, key));

  said.sale = await sell(seller, await issue("pm_card_visa"));
  return said;
}

/** One purchase at mppx's server, whose Stripe is the one under test; then the same credential and the same token again. */
async function sell(client, spt) {
  const { Challenge, Credential } = await import("mppx");
  const { Mppx, stripe } = await import("mppx/server");
  const shop = Mppx.create({
    secretKey: "a key of at least 32 bytes for one run",
    realm: "shop.test",
    methods: [stripe.charge({ client, networkId: values.seller, paymentMethodTypes: ["card"], currency: "usd", decimals: 2 })],
  });
  const ask = async (authorization) => {
    const request = new Request("http://shop.test/", { headers: authorization ? { authorization } : {} });
    const result = await shop.stripe.charge({ amount: "1.00" })(request);
    return result.status === 402 ? result.challenge : result.withReceipt(new Response("goods"));
  };
  const pay = async (asked) => {
    const challenge = Challenge.fromResponse(asked);
    return Credential.serialize(Credential.from({ challenge, payload: { spt } }));
  };
  const credential = await pay(await ask());
  const sold = await ask(credential);
  const receipt = JSON.parse(Buffer.from(sold.headers.get("payment-receipt") ?? "bnVsbA", "base64url"));
  const replayed = await ask(credential);
  const reused = await ask(await pay(await ask()));
  return { status: sold.status, receipt, spt, replayed: replayed.status, reused: reused.status };
}

async function buy() {
  const { default: Stripe } = await import("stripe");
  const { Receipt } = await import("mppx");
  const { Mppx, stripe } = await import("mppx/client");
  const agent = new Stripe(values["agent-key"], stripeAt(new URL(values.url)));
  let authorization;
  const watched = (input, init) => {
    authorization = new Request(input, init).headers.get("authorization") ?? authorization;
    return fetch(input, init);
  };
  const payer = Mppx.create({
    polyfill: false,
    fetch: watched,
    methods: [stripe.charge({
      paymentMethod: "pm_card_visa",
      createToken: async ({ amount, currency, expiresAt, networkId, paymentMethod }) => {
        const token = await agent.sharedPayment.issuedTokens.create({
          payment_method: paymentMethod,
          usage_limits: { currency, max_amount: Number(amount), expires_at: expiresAt },
          seller_details: { network_business_profile: networkId },
        });
        return token.id;
      },
    })],
  });
  const sold = await payer.fetch(values.url);
  const receipt = Receipt.fromResponse(sold);
  const replayed = await fetch(values.url, { headers: { authorization } });
  return { status: sold.status, goods: await sold.json(), receipt, replayed: replayed.status, problem: await replayed.json() };
}
