//! The messages as people read them: read them when you change one. The files below start with an empty line.

mod bkey;

use std::path::Path;

use super::limits;
use super::operator::Config;

#[track_caller]
pub(super) fn limits_says(text: &str, message: &str) {
    let error = limits::parse("limits.toml", text).err().expect("a mistake");
    assert_eq!(error.to_string(), message.trim_matches('\n'));
}

#[track_caller]
fn operator_says(text: &str, message: &str) {
    let error = Config::parse("bursar.toml", text, Path::new("/d")).expect_err("a mistake");
    assert_eq!(error.to_string(), message.trim_matches('\n'));
}

#[test]
fn misspelt_keys_are_all_reported_and_each_in_its_place() {
    limits_says(
        r#"
timezone = "UTC"
[agents.research]
  daay = "5.00"
per_transactions = "0.50"
count = { hours = 3 }
"#,
        r#"
limits.toml:4:3: [agents.research] has no key `daay`
  4 |   daay = "5.00"
    |   ^^^^
  Did you mean `day`?

limits.toml:5:1: [agents.research] has no key `per_transactions`
  5 | per_transactions = "0.50"
    | ^^^^^^^^^^^^^^^^
  Did you mean `per_transaction`?

limits.toml:6:11: [agents.research.count] has no key `hours`
  6 | count = { hours = 3 }
    |           ^^^^^
  Did you mean `hour`?
"#,
    );
}

#[test]
fn a_group_that_is_not_there() {
    limits_says(
        r#"
[groups.engineering]
[agents.research]
group = "enginering"
total = "5"
"#,
        r#"
limits.toml:4:9: agents.research.group: there is no group "enginering"
  4 | group = "enginering"
    |         ^^^^^^^^^^^^
  Did you mean "engineering"?
"#,
    );
}

#[test]
fn amounts_without_quotes() {
    limits_says(
        r#"
[agents.research]
total = 5.5
per_transaction = 1_000
approval_above = "1,00"
count = { total = "7" }
"#,
        r#"
limits.toml:3:9: agents.research.total: 5.5 is a number, and amounts are written as texts
  3 | total = 5.5
    |         ^^^
  Write total = "5.50".

limits.toml:4:19: agents.research.per_transaction: 1000 is a number, and amounts are written as texts
  4 | per_transaction = 1_000
    |                   ^^^^^
  Write per_transaction = "1000.00".

limits.toml:5:18: agents.research.approval_above: "1,00" is no amount of US dollars: the amount is not a plain decimal number
  5 | approval_above = "1,00"
    |                  ^^^^^^
  Write digits only, with at most six decimals: approval_above = "5.00".

limits.toml:6:19: agents.research.count.total must be a whole number, not a text
  6 | count = { total = "7" }
    |                   ^^^
  Write total = 7, without quotes.
"#,
    );
}

#[test]
fn words_of_other_products() {
    limits_says(
        r#"
[org]
[agents.research]
per_request = "1.00"
lifetime = "9.00"
outstanding = "1.00"
rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
"#,
        r#"
limits.toml:2:2: there is no `org` at the top of this file
  2 | [org]
    |  ^^^
  Write [account].

limits.toml:4:1: [agents.research] has no key `per_request`
  4 | per_request = "1.00"
    | ^^^^^^^^^^^
  The key is `per_transaction`.

limits.toml:5:1: [agents.research] has no key `lifetime`
  5 | lifetime = "9.00"
    | ^^^^^^^^
  The key is `total`.

limits.toml:6:1: [agents.research] has no key `outstanding`
  6 | outstanding = "1.00"
    | ^^^^^^^^^^^
  The key is `max_pending`.

limits.toml:7:13: agents.research.rolling.24h is as long as another rolling window of this section
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |             ^^^^^
  Keep the lower of the two.

limits.toml:7:44: agents.research.rolling.90s: "90s" is no length of a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                            ^^^^^
  Write a number and `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.

limits.toml:7:60: agents.research.rolling.1500d: "1500d" is no length of a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                                            ^^^^^^^
  Write a number and `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.

limits.toml:7:78: agents.research.rolling.0h: "0h" is no length of a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                                                              ^^^^
  Write a number and `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.
"#,
    );
}

/// Said once, at the first such window.
#[test]
fn a_calendar_window_without_a_zone() {
    limits_says(
        r#"
[account]
day = "5.00"
hour = "1.00"
"#,
        r#"
limits.toml:4:1: account.hour needs a time zone, and this file has none
  4 | hour = "1.00"
    | ^^^^
  Write it at the top of the file, before the first section: timezone = "Europe/Berlin" (an IANA name; "UTC" is one too).
"#,
    );
}

#[test]
fn a_zone_that_does_not_exist() {
    limits_says(
        r#"
timezone = "Europe/Berlim"
"#,
        r#"
limits.toml:2:12: timezone: "Europe/Berlim" is no time zone
  2 | timezone = "Europe/Berlim"
    |            ^^^^^^^^^^^^^^^
  Did you mean "Europe/Berlin"?
"#,
    );
}

#[test]
fn hosts_in_every_wrong_form() {
    limits_says(
        r#"
[agents.a]
merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
"#,
        r#"
limits.toml:3:24: agents.a.merchants.allow: "münchen.example" cannot stand here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                        ^^^^^^^^^^^^^^^^^
  Write the host in its ASCII form, which starts with xn--.

limits.toml:3:43: agents.a.merchants.allow: "https://x.example" cannot stand here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                           ^^^^^^^^^^^^^^^^^^^
  Write the host alone, without scheme or path, such as api.example.com.

limits.toml:3:73: agents.a.merchants.deny: "*" cannot stand here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                                                         ^^^
  `*` may only be the whole first label, as in *.example.com.

limits.toml:3:78: agents.a.merchants.deny: "x.example:443" cannot stand here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                                                              ^^^^^^^^^^^^^^^
  Write the host without a port: limits hold for every port of it.
"#,
    );
}

#[test]
fn lists_of_names_we_do_not_know() {
    limits_says(
        r#"
[agents.a]
networks = ["base"]
assets = ["usdc"]
payees = { allow = ["0x209693bc6afc0C5328bA36FaF03C514EF312287C"], deny = [] }
[agents.b]
networks = []
"#,
        r#"
limits.toml:3:13: agents.a.networks: "base" is no network
  3 | networks = ["base"]
    |             ^^^^^^
  Write it as "eip155:8453".

limits.toml:4:11: agents.a.assets: bursar does not know the asset "usdc"
  4 | assets = ["usdc"]
    |           ^^^^^^
  Did you mean "USDC"?

limits.toml:5:21: agents.a.payees.allow: "0x209693bc6afc0C5328bA36FaF03C514EF312287C" is no EVM address and no profile at Stripe
  5 | payees = { allow = ["0x209693bc6afc0C5328bA36FaF03C514EF312287C"], deny = [] }
    |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Its capitals do not fit its digits (ERC-55), so a character may be wrong: compare it with its source.

limits.toml:7:12: agents.b.networks: the list is empty
  7 | networks = []
    |            ^^
  An empty list would allow nothing: leave it out to allow any, or write paused = true to stop payments.
"#,
    );
}

#[test]
fn syntax_errors_end_the_reading() {
    limits_says(
        r#"
[agents.a]
total = "1"
total = "2"
"#,
        r#"
limits.toml:4:1: not valid TOML: duplicate key
  4 | total = "2"
    | ^^^^^
  Each key and each [section] may be written once: merge the two.
"#,
    );
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
  Write tls_cert and tls_key below it, or allow_plain = true if the network between is yours alone.
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
bursar.toml:3:11: approval.backend: there is no "pager" in this version
  3 | backend = "pager"
    |           ^^^^^^^
  Write "operator", who is asked by `bursar pending`, "ciba" or "keyra" for a person's own device, or "none": then what needs approval is refused.

bursar.toml:5:7: store.url: a password stands in it
  5 | url = …
    |       ^
  Take it out of the file, and for known to whoever could read it; write password = "env:NAME" or password = "file:PATH" below.

bursar.toml:7:7: stripe.key does not say where the secret is kept
  7 | key = …
    |       ^
  Write "env:NAME", "file:PATH" or "bkey". If the secret itself stood here, take it for known to others and replace it.

bursar.toml:8:18: stripe.payment_method: no Stripe payment method: one begins with pm_, then letters, digits and _, at most 255 characters
  8 | payment_method = …
    |                  ^
  Write the id of a saved payment method.

bursar.toml:9:12: stripe.api_base: a Stripe key is sent over https only; plain http is for this machine, such as http://127.0.0.1:8420
  9 | api_base = …
    |            ^
  Leave it out for Stripe itself.
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
  Write "env:NAME", "file:PATH" or "keystore:PATH". If the secret itself stood here, take it for known to others and replace it.

bursar.toml:5:37: networks."eip155:8453".rpc: this is no http or https URL
  5 | rpc = …
    |       ^
  Write rpc = ["https://rpc.example.com"], or rpc = [] to do without proofs.

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
  Texts stand in double quotes, sections in [brackets], one `key = value` a line.
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
bursar.toml:2:11: [networks] "base-sepolia" is no network that can be paid on
  2 | [networks.base-sepolia]
    |           ^^^^^^^^^^^^
  Write [networks."eip155:84532"].
"#,
    );
}

#[test]
fn ranges_with_bits_behind_the_prefix() {
    operator_says(
        r#"
[upstream]
allow_private = ["10.0.0.1/8"]
"#,
        r#"
bursar.toml:3:18: upstream.allow_private: "10.0.0.1/8" has address bits behind its prefix
  3 | allow_private = … "10.0.0.1/8"]
    |                   ^^^^^^^^^^^^
  Write "10.0.0.0/8" for the whole range, or "10.0.0.1" for one address.
"#,
    );
}

#[test]
fn an_identity_server_half_described() {
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
  Write issuer = "https://login.example.com", or leave `style` out for BKey.

bursar.toml:6:1: approval.ciba.client_id stands alone
  6 | client_id = …
    | ^^^^^^^^^
  Write client_secret = "env:NAME" or client_secret = "file:PATH" as well.

bursar.toml:8:9: approval.ciba.algs: bursar verifies Ed25519 signatures alone
  8 | algs = …
    |        ^
  Write "EdDSA", or "Ed25519" for servers that name it so (RFC 9864).
"#,
    );
}

#[test]
fn a_client_key_and_a_method_that_do_not_meet() {
    operator_says(
        r#"
[approval.ciba]
style = "standard"
issuer = "https://login.example.com"
client_id = "bursar"
client_key = "file:client.pem"
"#,
        r#"
bursar.toml:6:1: approval.ciba.client_key stands without its method
  6 | client_key = …
    | ^^^^^^^^^^
  Write client_auth = "private_key_jwt" as well; the other methods take `client_secret`.
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
  Write client_id = "…" and client_key = "file:PATH", a PEM file with the key whose public half the server has.
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
bursar.toml:3:15: approval.ciba.client_auth: BKey takes a secret, not a key
  3 | client_auth = …
    |               ^
  Leave `client_auth` out, or write style = "standard" for another server.
"#,
    );
}

#[test]
fn a_secret_where_its_source_should_stand() {
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
  Write "env:NAME" or "file:PATH". If the secret itself stood here, take it for known to others and replace it.

bursar.toml:6:12: approval.keyra.base_url: a KEYRA key is sent over https only; plain http is for this machine, such as http://127.0.0.1:8420
  6 | base_url = …
    |            ^
  Write what stands before /v1: base_url = "https://keyra.example.com".

bursar.toml:7:11: approval.keyra.api_key does not say where the secret is kept
  7 | api_key = …
    |           ^
  Write "env:NAME" or "file:PATH". If the secret itself stood here, take it for known to others and replace it.
"#,
    );
}

#[test]
fn calls_that_nothing_would_hear() {
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
bursar.toml:3:11: approval.keyra.webhook_secret is set, and nothing listens for it
  3 | backend = "keyra"
    |           ^^^^^^^
  Write callbacks = "127.0.0.1:8403" below [approval], or leave webhook_secret out: answers are found all the same.

bursar.toml:8:9: approval.keyra.trust: there is no "blind"
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
bursar.toml:3:11: approval.backend is "keyra", and there is no [approval.keyra]
  3 | backend = "keyra"
    |           ^^^^^^^
  Add that section with base_url = "https://…" and api_key = "env:KEYRA_API_KEY".

bursar.toml:4:13: approval.callbacks: 0.0.0.0:8403 can be reached from other machines without TLS
  4 | callbacks = "0.0.0.0:8403"
    |             ^^^^^^^^^^^^^^
  Keep it on this machine behind a server that speaks TLS, or write allow_plain = true.
"#,
    );
}
