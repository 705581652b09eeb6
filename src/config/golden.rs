//! Whole messages as users read them: reread them after changing one. The file texts below start with an empty line.

mod bkey;
mod people;

use std::path::Path;

use super::operator::Config;

#[track_caller]
fn operator_says(text: &str, message: &str) {
    let error = Config::parse("bursar.toml", text, Path::new("/d")).expect_err("a mistake");
    assert_eq!(error.to_string(), message.trim_matches('\n'));
}

#[test]
fn plain_tcp_for_others() {
    operator_says(
        r#"
[proxy]
listen = "0.0.0.0:8402"
"#,
        r#"
bursar.toml:3:10: proxy.listen: 0.0.0.0:8402 can be reached from other machines without TLS
  3 | listen = "0.0.0.0:8402"
    |          ^^^^^^^^^^^^^^
  Add tls_cert and tls_key, or write allow_plain = true if you control the whole network in between.
"#,
    );
}

#[test]
fn what_this_version_does_not_have() {
    operator_says(
        r#"
[approval]
backend = "pager"
[store]
url = "postgres://bursar:hunter2@db/bursar"
[stripe]
key = "sk_test_hunter2"
payment_method = "sk_test_hunter2"
api_base = "http://api.stripe.com"
"#,
        r#"
bursar.toml:3:11: approval.backend: "pager" is not a known backend
  3 | backend = "pager"
    |           ^^^^^^^
  Write "operator" to approve with `bursar approve`, "ciba" or "keyra" to ask people on their own devices, or "none" to refuse payments that need approval.

bursar.toml:5:7: store.url: it contains a password
  5 | url = …
    |       ^
  Remove it and change the password, because anyone who can read the file knows it. Then write password = "env:NAME" or password = "file:PATH" below.

bursar.toml:7:7: stripe.key does not say where the secret is kept
  7 | key = …
    |       ^
  Write "env:NAME", "file:PATH" or "bkey". If this was the secret itself, consider it exposed and replace it.

bursar.toml:8:18: stripe.payment_method: not a Stripe payment method: one starts with pm_, then letters, digits or _, at most 255 characters
  8 | payment_method = …
    |                  ^
  Write the id of a saved payment method.

bursar.toml:9:12: stripe.api_base: a Stripe key is sent only over https; plain http is allowed only to this machine, such as http://127.0.0.1:8420
  9 | api_base = …
    |            ^
  Remove it to use Stripe itself.
"#,
    );
}

#[test]
fn secrets_are_not_shown() {
    operator_says(
        r#"
[wallet.evm]
key = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
[networks."eip155:8453"]
rpc = ["https://a.example/hunter2", "wss://b.example/hunter2"]
[store]
urll = "postgres://bursar:hunter2@db/bursar"
"#,
        r#"
bursar.toml:3:7: wallet.evm.key does not say where the secret is kept
  3 | key = …
    |       ^
  Write "env:NAME", "file:PATH" or "keystore:PATH". If this was the secret itself, consider it exposed and replace it.

bursar.toml:5:37: networks."eip155:8453".rpc: not an http or https URL
  5 | rpc = …
    |       ^
  Write rpc = ["https://rpc.example.com"], or rpc = [] to do without on-chain proofs.

bursar.toml:7:1: [store] has no key `urll`
  7 | urll = …
    | ^^^^
  Did you mean `url`?
"#,
    );
}

#[test]
fn secrets_are_not_shown_by_syntax_errors_either() {
    operator_says(
        r#"
[wallet.evm]
key = 4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318
"#,
        r#"
bursar.toml:3:8: not valid TOML: invalid float, expected nothing
  3 | key = …
    |       ^
  Put strings in double quotes and section names in [brackets], with one `key = value` per line.
"#,
    );
}

#[test]
fn networks_by_another_name() {
    operator_says(
        r#"
[networks.base-sepolia]
rpc = []
"#,
        r#"
bursar.toml:2:11: [networks] "base-sepolia" is not a network that bursar supports
  2 | [networks.base-sepolia]
    |           ^^^^^^^^^^^^
  Write [networks."eip155:84532"].
"#,
    );
}

#[test]
fn ranges_with_bits_beyond_the_prefix() {
    operator_says(
        r#"
[upstream]
allow_private = ["10.0.0.1/8"]
"#,
        r#"
bursar.toml:3:18: upstream.allow_private: "10.0.0.1/8" has address bits set beyond its prefix
  3 | allow_private = … "10.0.0.1/8"]
    |                   ^^^^^^^^^^^^
  Write "10.0.0.0/8" for the whole range, or "10.0.0.1" for one address.
"#,
    );
}

#[test]
fn an_identity_server_half_configured() {
    operator_says(
        r#"
[approval]
backend = "ciba"
[approval.ciba]
style = "standard"
client_id = "bursar"
delivery = "ping"
algs = ["RS256"]
"#,
        r#"
bursar.toml:4:11: [approval.ciba] has no `issuer`
  4 | [approval.ciba]
    |           ^^^^
  Add issuer = "https://login.example.com", or remove `style` to use BKey.

bursar.toml:6:1: approval.ciba.client_id is set without a client_secret
  6 | client_id = …
    | ^^^^^^^^^
  Add client_secret = "env:NAME" or client_secret = "file:PATH".

bursar.toml:8:9: approval.ciba.algs: bursar verifies only Ed25519 signatures
  8 | algs = …
    |        ^
  Write "EdDSA", or "Ed25519" for servers that use this name (RFC 9864).
"#,
    );
}

#[test]
fn a_client_key_and_a_method_that_do_not_match() {
    operator_says(
        r#"
[approval.ciba]
style = "standard"
issuer = "https://login.example.com"
client_id = "bursar"
client_key = "file:client.pem"
"#,
        r#"
bursar.toml:6:1: approval.ciba.client_key needs client_auth = "private_key_jwt"
  6 | client_key = …
    | ^^^^^^^^^^
  Add client_auth = "private_key_jwt", or use `client_secret`, which the other methods need.
"#,
    );
    operator_says(
        r#"
[approval.ciba]
style = "standard"
issuer = "https://login.example.com"
client_auth = "private_key_jwt"
client_id = "bursar"
"#,
        r#"
bursar.toml:2:11: [approval.ciba] has no `client_id` and `client_key`
  2 | [approval.ciba]
    |           ^^^^
  Add client_id = "…" and client_key = "file:PATH", a PEM file with the key registered at the server.
"#,
    );
    operator_says(
        r#"
[approval.ciba]
client_auth = "private_key_jwt"
client_id = "bursar"
client_secret = "env:SECRET"
client_key = "file:client.pem"
"#,
        r#"
bursar.toml:3:15: approval.ciba.client_auth: BKey takes a client secret, not a key
  3 | client_auth = …
    |               ^
  Remove `client_auth`, or write style = "standard" for another server.
"#,
    );
}

#[test]
fn a_secret_in_place_of_its_source() {
    operator_says(
        r#"
[approval.ciba]
client_id = "bkey_client_1"
client_secret = "bkey_secret_hunter2"
[approval.keyra]
base_url = "http://keyra.example.com"
api_key = "sk_live_hunter2"
"#,
        r#"
bursar.toml:4:17: approval.ciba.client_secret does not say where the secret is kept
  4 | client_secret = …
    |                 ^
  Write "env:NAME" or "file:PATH". If this was the secret itself, consider it exposed and replace it.

bursar.toml:6:12: approval.keyra.base_url: a KEYRA key is sent over https only; plain http is allowed only to this machine, such as http://127.0.0.1:8420
  6 | base_url = …
    |            ^
  Write the part of the URL before /v1: base_url = "https://keyra.example.com".

bursar.toml:7:11: approval.keyra.api_key does not say where the secret is kept
  7 | api_key = …
    |           ^
  Write "env:NAME" or "file:PATH". If this was the secret itself, consider it exposed and replace it.
"#,
    );
}

#[test]
fn calls_that_nothing_listens_for() {
    operator_says(
        r#"
[approval]
backend = "keyra"
[approval.keyra]
base_url = "https://keyra.example.com"
api_key = "env:KEYRA_API_KEY"
webhook_secret = "env:KEYRA_WEBHOOK_SECRET"
trust = "blind"
"#,
        r#"
bursar.toml:3:11: approval.keyra.webhook_secret is set, but nothing listens for calls
  3 | backend = "keyra"
    |           ^^^^^^^
  Add callbacks = "127.0.0.1:8403" under [approval], or remove webhook_secret: polling finds answers too.

bursar.toml:8:9: approval.keyra.trust: "blind" is not a known value
  8 | trust = …
    |         ^
  Write "verify" or "status".
"#,
    );
    operator_says(
        r#"
[approval]
backend = "keyra"
callbacks = "0.0.0.0:8403"
"#,
        r#"
bursar.toml:3:11: approval.backend is "keyra", but there is no section [approval.keyra]
  3 | backend = "keyra"
    |           ^^^^^^^
  Add [approval.keyra] with base_url = "https://…" and api_key = "env:KEYRA_API_KEY".

bursar.toml:4:13: approval.callbacks: 0.0.0.0:8403 can be reached from other machines without TLS
  4 | callbacks = "0.0.0.0:8403"
    |             ^^^^^^^^^^^^^^
  Listen on a loopback address behind a TLS reverse proxy, or write allow_plain = true.
"#,
    );
}
