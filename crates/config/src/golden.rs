//! Whole error messages as people see them. Review them here whenever you change one. Each test file starts with an
//! empty line.

use super::limits;

#[track_caller]
pub(crate) fn limits_says(text: &str, message: &str) {
    let error = limits::parse("limits.toml", text).err().expect("a mistake");
    assert_eq!(error.to_string(), message.trim_matches('\n'));
}

#[test]
fn misspelt_keys_are_all_reported_with_their_positions() {
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
fn a_group_that_does_not_exist() {
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
limits.toml:3:9: agents.research.total: 5.5 is a bare number, but amounts must be written in quotes
  3 | total = 5.5
    |         ^^^
  Write total = "5.50".

limits.toml:4:19: agents.research.per_transaction: 1000 is a bare number, but amounts must be written in quotes
  4 | per_transaction = 1_000
    |                   ^^^^^
  Write per_transaction = "1000.00".

limits.toml:5:18: agents.research.approval_above: "1,00" is not a valid amount in US dollars: the amount is not a plain decimal number
  5 | approval_above = "1,00"
    |                  ^^^^^^
  Write digits only, without a sign, with at most six decimals: approval_above = "5.00".

limits.toml:6:19: agents.research.count.total must be a whole number, not a string
  6 | count = { total = "7" }
    |                   ^^^
  Write total = 7, without quotes.
"#,
    );
}

#[test]
fn keys_that_other_products_use() {
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
limits.toml:2:2: `org` is not a known key or section
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

limits.toml:7:13: agents.research.rolling.24h is as long as another rolling window in this section
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |             ^^^^^
  Keep only the lower of the two.

limits.toml:7:44: agents.research.rolling.90s: "90s" is not a valid length for a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                            ^^^^^
  Write a number followed by `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.

limits.toml:7:60: agents.research.rolling.1500d: "1500d" is not a valid length for a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                                            ^^^^^^^
  Write a number followed by `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.

limits.toml:7:78: agents.research.rolling.0h: "0h" is not a valid length for a rolling window
  7 | rolling = { "24h" = "5.00", "1d" = "4.00", "90s" = "1.00", "1500d" = "1.00", "0h" = "1.00" }
    |                                                                              ^^^^
  Write a number followed by `m`, `h` or `d`, at most 366 days: rolling = { "24h" = "5.00" }.
"#,
    );
}

/// Reported once, at the first such window.
#[test]
fn a_calendar_window_without_a_zone() {
    limits_says(
        r#"
[account]
day = "5.00"
hour = "1.00"
"#,
        r#"
limits.toml:4:1: account.hour needs a time zone, but this file sets none
  4 | hour = "1.00"
    | ^^^^
  Set it at the top of the file, before the first section: timezone = "Europe/Berlin" (any IANA name, including "UTC").
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
limits.toml:2:12: timezone: "Europe/Berlim" is not a known time zone
  2 | timezone = "Europe/Berlim"
    |            ^^^^^^^^^^^^^^^
  Did you mean "Europe/Berlin"?
"#,
    );
}

#[test]
fn malformed_hosts() {
    limits_says(
        r#"
[agents.a]
merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
"#,
        r#"
limits.toml:3:24: agents.a.merchants.allow: "münchen.example" is not valid here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                        ^^^^^^^^^^^^^^^^^
  Write the host in its ASCII form, which starts with xn--.

limits.toml:3:43: agents.a.merchants.allow: "https://x.example" is not valid here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                           ^^^^^^^^^^^^^^^^^^^
  Write only the host, without scheme or path, such as api.example.com.

limits.toml:3:73: agents.a.merchants.deny: "*" is not valid here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                                                         ^^^
  `*` may only be the whole first label, as in *.example.com.

limits.toml:3:78: agents.a.merchants.deny: "x.example:443" is not valid here
  3 | merchants = { allow = ["münchen.example", "https://x.example"], deny = ["*", "x.example:443"] }
    |                                                                              ^^^^^^^^^^^^^^^
  Write the host without a port: limits apply to all its ports.
"#,
    );
}

#[test]
fn unknown_names_in_lists() {
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
limits.toml:3:13: agents.a.networks: "base" is not a CAIP-2 network name
  3 | networks = ["base"]
    |             ^^^^^^
  Write it as "eip155:8453".

limits.toml:4:11: agents.a.assets: bursar does not know the asset "usdc"
  4 | assets = ["usdc"]
    |           ^^^^^^
  Did you mean "USDC"?

limits.toml:5:21: agents.a.payees.allow: "0x209693bc6afc0C5328bA36FaF03C514EF312287C" is not a valid EVM address or Stripe profile
  5 | payees = { allow = ["0x209693bc6afc0C5328bA36FaF03C514EF312287C"], deny = [] }
    |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Its checksum (ERC-55, the capitals) does not match, so a character may be wrong: compare it with its source.

limits.toml:7:12: agents.b.networks: the list is empty
  7 | networks = []
    |            ^^
  An empty list would allow nothing: remove the list to allow any, or set paused = true to stop payments.
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
  Each key and each [section] may appear only once: merge the two.
"#,
    );
}

#[test]
fn slips_and_signs_are_understood() {
    limits_says(
        r#"
timezone = "UTC"
[agents.a]
dya = "$20"
day = "$20"
month = "1,000.50 USD"
total = "1,5"
"#,
        r#"
limits.toml:4:1: [agents.a] has no key `dya`
  4 | dya = "$20"
    | ^^^
  Did you mean `day`?

limits.toml:5:7: agents.a.day: "$20" is not a valid amount in US dollars: the amount is not a plain decimal number
  5 | day = "$20"
    |       ^^^^^
  Write digits only, without a sign, with at most six decimals: day = "20.00".

limits.toml:6:9: agents.a.month: "1,000.50 USD" is not a valid amount in US dollars: the amount is not a plain decimal number
  6 | month = "1,000.50 USD"
    |         ^^^^^^^^^^^^^^
  Write digits only, without a sign, with at most six decimals: month = "1000.50".

limits.toml:7:9: agents.a.total: "1,5" is not a valid amount in US dollars: the amount is not a plain decimal number
  7 | total = "1,5"
    |         ^^^^^
  Write digits only, without a sign, with at most six decimals: total = "5.00".
"#,
    );
}
