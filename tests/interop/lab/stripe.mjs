// Where the reference server finds Stripe. It takes either the Stripe SDK, which we do not install, or a key, and with a
// key it calls a fixed address by `fetch`. So that address is led elsewhere: what arrives there is, byte for byte, what the
// reference server sends, and no request of this process can reach the real one.
const STRIPE = "https://api.stripe.com/";

/** @param url the stand-in's origin, or undefined when there is none and nothing may settle */
export function redirectStripe(url) {
  const { fetch } = globalThis;
  globalThis.fetch = async (resource, options) => {
    const address = String(resource?.url ?? resource);
    if (!address.startsWith(STRIPE)) {
      return fetch(resource, options);
    }
    if (!url) {
      throw new Error("this laboratory has no Stripe; start it with --stripe URL");
    }
    return fetch(new URL(address.slice(STRIPE.length), url), options);
  };
}
