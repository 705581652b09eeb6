//! Who pays: a key of our own, or BKey.

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
  BKey signs, or a key of your own does, not both: keep evm = "bkey", or the section [wallet.evm].
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
  BKey signs, or a key of your own does, not both: keep evm = "bkey", or the section [wallet.evm].
"#,
        ),
    ];
    for (text, message) in both {
        operator_says(text, message);
    }
}

#[test]
fn keys_of_bkeys_in_the_wrong_place() {
    operator_says(
        r#"
[wallet]
evm = "env:KEY"
stripe = "bkey"
bkey = true
"#,
        r#"
bursar.toml:3:7: wallet.evm is a text, and not "bkey"
  3 | evm = …
    |       ^
  Write evm = "bkey" if BKey signs, or a section [wallet.evm] with key = "env:NAME", key = "file:PATH" or key = "keystore:PATH" for a key of your own.

bursar.toml:4:1: [wallet] has no key `stripe`
  4 | stripe = …
    | ^^^^^^
  Write key = "bkey" and payment_method = "pm_…" below [stripe].

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
bursar.toml:3:7: [wallet.evm] is for a key of your own
  3 | key = …
    |       ^
  If BKey signs, write evm = "bkey" below [wallet] instead of this section.

bursar.toml:7:1: stripe.live is for an account of your own, and BKey issues the tokens
  7 | live = …
    | ^^^^
  Leave it out, or write key = "env:NAME" for an account of your own.

bursar.toml:9:1: [bkey] has no key `url`
  9 | url = …
    | ^^^
  The key is `api_url`.

bursar.toml:10:1: bkey.client_id stands alone
  10 | client_id = …
     | ^^^^^^^^^
  Write client_secret = "env:NAME" or client_secret = "file:PATH" as well.
"#,
    );
    operator_says(
        r#"
[bkey]
api_url = "http://api.bkey.id"
"#,
        r#"
bursar.toml:3:11: bkey.api_url: an identity server is spoken to over https only; plain http is for this machine, where it is allowed
  3 | api_url = …
    |           ^
  Write api_url = "https://login.example.com", as the server names itself in its metadata.
"#,
    );
}
