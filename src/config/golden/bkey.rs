//! Who pays: our own key, or BKey.

use super::operator_says;

#[test]
fn one_rail_has_one_payer() {
    let both = [
        (
            r#"
[wallet]
evm = "bkey"
[wallet.evm]
key = "env:KEY"
"#,
            r#"
bursar.toml:4:9: not valid TOML: duplicate key
  4 | [wallet.evm]
    |            ^
  Either BKey signs or a key of your own does: keep only evm = "bkey" or the section [wallet.evm].
"#,
        ),
        (
            r#"
[wallet]
evm = "bkey"
evm = { key = "env:KEY" }
"#,
            r#"
bursar.toml:4:1: not valid TOML: duplicate key
  4 | evm = …
    |       ^
  Either BKey signs or a key of your own does: keep only evm = "bkey" or the section [wallet.evm].
"#,
        ),
    ];
    for (text, message) in both {
        operator_says(text, message);
    }
}

#[test]
fn bkey_settings_in_the_wrong_place() {
    operator_says(
        r#"
[wallet]
evm = "env:KEY"
stripe = "bkey"
bkey = true
"#,
        r#"
bursar.toml:3:7: wallet.evm: the only string allowed here is "bkey"
  3 | evm = …
    |       ^
  Write evm = "bkey" if BKey signs. For a key of your own, add [wallet.evm] with key = "env:NAME", key = "file:PATH" or key = "keystore:PATH".

bursar.toml:4:1: [wallet] has no key `stripe`
  4 | stripe = …
    | ^^^^^^
  Write key = "bkey" and payment_method = "pm_…" under [stripe].

bursar.toml:5:1: [wallet] has no key `bkey`
  5 | bkey = …
    | ^^^^
  Write evm = "bkey".
"#,
    );
    operator_says(
        r#"
[wallet.evm]
key = "bkey"
[stripe]
key = "bkey"
payment_method = "pm_a"
live = true
[bkey]
url = "https://api.bkey.id"
client_id = "bkey_client_a"
"#,
        r#"
bursar.toml:3:7: wallet.evm.key: this section is for a key of your own
  3 | key = …
    |       ^
  If BKey signs, remove this section and write evm = "bkey" under [wallet].

bursar.toml:7:1: stripe.live is for a Stripe account of your own, but here BKey issues the tokens
  7 | live = …
    | ^^^^
  Remove it, or write key = "env:NAME" to use your own account.

bursar.toml:9:1: [bkey] has no key `url`
  9 | url = …
    | ^^^
  The key is `api_url`.

bursar.toml:10:1: bkey.client_id is set without a client_secret
  10 | client_id = …
     | ^^^^^^^^^
  Add client_secret = "env:NAME" or client_secret = "file:PATH".
"#,
    );
    operator_says(
        r#"
[bkey]
api_url = "http://api.bkey.id"
"#,
        r#"
bursar.toml:3:11: bkey.api_url: an identity server is contacted only over https; plain http is allowed only to this machine
  3 | api_url = …
    |           ^
  Write api_url = "https://login.example.com", exactly as `issuer` in the server's metadata.
"#,
    );
}
