//! What is approved: the terms that must not change between the question and the payment (approvals §8.1, R40), and the
//! wording for people (approvals §8.4, R42). Neither contains text from a merchant, except for the resource that the
//! agent itself asked for.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::assets::Asset;
use crate::challenge::{Offer, Protocol};
use crate::money::Atoms;
use crate::plain::stripped;

/// A prefix of what is hashed, so that the hash cannot be one of anything else.
const DOMAIN: &[u8] = b"agent-pay-approval/v1\n";
const BODY_HASH: &str = "body_hash";
/// All members except the body's hash are always present.
const MEMBERS: [&str; 14] = [
    "agent", "amount", "approver", "asset", BODY_HASH, "currency", "decimals", "host", "method", "network", "payee",
    "protocol", "resource", "scheme",
];
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LONGEST_SENTENCE: usize = 200;
const LONGEST_COMPACT: usize = 20;

/// The thirteen members, and the hash of the body if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalIntent(BTreeMap<&'static str, String>);

/// Forty random bits in Crockford's base32: eight characters that show that a question was read. They are drawn for each
/// question and do not follow from its intent: an agent knows the intent, since it follows from the 402 (R96).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code([u8; 8]);

/// The request to be paid for, and who is asked about it.
pub struct Asked<'a> {
    pub agent: &'a str,
    pub approver: &'a str,
    /// The host of the connection; lower-case A-label.
    pub host: &'a str,
    pub method: &'a str,
    /// The URL without fragment.
    pub resource: &'a str,
    /// The hash of the request body, unless it is empty.
    pub body_sha256: Option<[u8; 32]>,
}

impl ApprovalIntent {
    pub fn of(asked: &Asked<'_>, offer: &Offer) -> Self {
        let asset = match offer.asset {
            Asset::Token(token) => token.address.to_string(),
            Asset::Fiat(_, currency) => currency.code.to_owned(),
        };
        let protocol = match offer.rail.protocol() {
            Protocol::X402 => "x402",
            Protocol::Mpp => "mpp",
        };
        let mut members = BTreeMap::from([
            ("agent", asked.agent.to_owned()),
            ("amount", offer.outlay().get().to_string()),
            ("approver", asked.approver.to_owned()),
            ("asset", asset),
            ("currency", offer.asset.symbol().to_owned()),
            ("decimals", offer.asset.decimals().to_string()),
            ("host", asked.host.to_owned()),
            ("method", asked.method.to_owned()),
            // For Stripe it says live or test: an approval in test mode must not move real money.
            ("network", offer.asset.network().to_string()),
            ("payee", offer.payee.to_string()),
            ("protocol", protocol.to_owned()),
            ("resource", asked.resource.to_owned()),
            ("scheme", offer.rail.scheme().to_owned()),
        ]);
        if let Some(sha256) = asked.body_sha256 {
            members.insert(BODY_HASH, alloy_primitives::hex::encode(sha256));
        }
        Self(members)
    }

    /// Reads the form stored in `private/approvals`. `None` unless it has exactly the known members.
    pub fn recorded(members: &BTreeMap<String, String>) -> Option<Self> {
        let named = MEMBERS
            .iter()
            .filter_map(|name| Some((*name, members.get(*name)?.clone())));
        let intent: BTreeMap<_, _> = named.collect();
        let has_all = MEMBERS
            .iter()
            .all(|name| *name == BODY_HASH || intent.contains_key(name));
        (has_all && intent.len() == members.len()).then_some(Self(intent))
    }

    pub fn members(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
    }

    pub fn member(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// JSON with sorted members and no white space (RFC 8785, for strings).
    pub fn canonical(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(self.canonical());
        hash.finalize().into()
    }

    /// The code that bursar derived from the intent before codes were random. Only for approval records of that time.
    pub fn derived_code(&self) -> Code {
        let [a, b, c, d, e, ..] = self.hash();
        Code::of([a, b, c, d, e])
    }

    /// The member `approver`: one name, or several names and how many of them must approve.
    pub fn approver_of(names: &[&str], needed: usize) -> String {
        match names {
            [one] => (*one).to_owned(),
            names => format!("{needed} of {}", names.join(" ")),
        }
    }

    /// What one of several approvers is asked: the same intent with only that name.
    pub fn to(&self, approver: &str) -> Self {
        let mut members = self.0.clone();
        members.insert("approver", approver.to_owned());
        Self(members)
    }

    /// In whole units, with at least two decimals if the asset has that many: `12.50`, `0.001`.
    pub fn amount(&self) -> String {
        let number = |name| self.member(name).unwrap_or_default();
        let (Ok(atoms), Ok(decimals)) = (Atoms::parse(number("amount")), number("decimals").parse::<u8>()) else {
            return String::new();
        };
        let text = atoms.decimal(decimals);
        let wanted = usize::from(decimals.min(2));
        match text.split_once('.') {
            None if wanted > 0 => format!("{text}.{:0<wanted$}", ""),
            Some((_, fraction)) if fraction.len() < wanted => {
                format!("{text:0<width$}", width = text.len() + wanted - fraction.len())
            }
            _ => text,
        }
    }

    /// `AGENT: pay AMOUNT CURRENCY to HOST #CODE`, at most 200 characters; the agent's part is cut first.
    pub fn sentence(&self, amount: &str, code: Code) -> String {
        let text = |name| self.member(name).unwrap_or_default();
        sentence(text("agent"), amount, text("currency"), text("host"), code)
    }

    /// `AMOUNTCURRENCY#CODE`, or only the code if that is longer than 20 characters.
    pub fn compact(&self, amount: &str, code: Code) -> String {
        compact(amount, self.member("currency").unwrap_or_default(), code)
    }
}

impl Code {
    /// `bits` must be fresh from the operating system's generator, except for a code of before.
    pub fn of([a, b, c, d, e]: [u8; 5]) -> Self {
        let bits = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
        let mut code = [0; 8];
        for (place, character) in code.iter_mut().enumerate() {
            let index = bits >> (35 - 5 * place) & 31;
            *character = ALPHABET
                .get(usize::try_from(index).unwrap_or(0))
                .copied()
                .unwrap_or(b'0');
        }
        Self(code)
    }

    /// Reads the form in which it is stored.
    pub fn parse(text: &str) -> Option<Self> {
        let code = text.as_bytes().try_into().ok()?;
        text.bytes().all(|byte| ALPHABET.contains(&byte)).then_some(Self(code))
    }

    /// Compares what a person typed: in any case, with or without `#`, and with the letters that Crockford reads as
    /// digits.
    pub fn is(&self, typed: &str) -> bool {
        let typed = typed.trim().trim_start_matches('#');
        let read = |c: char| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        typed.chars().map(read).eq(self.as_str().chars())
    }

    pub fn as_str(&self) -> &str {
        // The alphabet is ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn sentence(agent: &str, amount: &str, currency: &str, host: &str, code: Code) -> String {
    let [agent, amount, currency, host] = [agent, amount, currency, host].map(stripped);
    let fixed = format!(": pay {amount} {currency} to  #{code}").chars().count();
    let host = shortened(host, LONGEST_SENTENCE.saturating_sub(fixed));
    let rest = format!(": pay {amount} {currency} to {host} #{code}");
    let room = LONGEST_SENTENCE.saturating_sub(rest.chars().count());
    let agent: String = agent.chars().take(room).collect();
    format!("{agent}{rest}")
}

/// The end of a host says whose it is, so a long one loses its beginning.
fn shortened(host: String, room: usize) -> String {
    const LEFT_OUT: &str = "...";
    let length = host.chars().count();
    if length <= room {
        return host;
    }
    let skipped = length - room.saturating_sub(LEFT_OUT.len());
    let end: String = host.chars().skip(skipped).collect();
    format!("{LEFT_OUT}{end}")
}

fn compact(amount: &str, currency: &str, code: Code) -> String {
    let whole = format!("{}{}#{code}", stripped(amount), stripped(currency));
    match whole.len() <= LONGEST_COMPACT && whole.is_ascii() {
        true => whole,
        false => format!("#{code}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../../../fixtures/approvals/intent_binding.json")).unwrap()
    }

    fn intent(members: &Value) -> ApprovalIntent {
        let names = [
            "agent", "amount", "approver", "asset", "currency", "decimals", "host", "method", "network", "payee",
            "protocol", "resource", "scheme",
        ];
        assert_eq!(members.as_object().unwrap().len(), names.len());
        ApprovalIntent(
            names
                .map(|name| (name, members[name].as_str().unwrap().to_owned()))
                .into(),
        )
    }

    #[test]
    fn hashes_and_the_codes_of_before_match_the_vectors() {
        let fixture = fixture();
        let rows = fixture["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 11);
        for row in rows {
            let intent = intent(&row["intent"]);
            assert_eq!(
                intent.canonical(),
                row["canonical"].as_str().unwrap(),
                "{}",
                row["name"]
            );
            let hash = alloy_primitives::hex::encode(intent.hash());
            assert_eq!(hash, row["intent_hash"].as_str().unwrap(), "{}", row["name"]);
            let code = intent.derived_code();
            assert_eq!(code.as_str(), row["code"].as_str().unwrap(), "{}", row["name"]);
        }
    }

    #[test]
    fn the_wording_matches_the_vectors() {
        let fixture = fixture();
        let cases = fixture["binding_message"]["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let text = |name: &str| case[name].as_str().unwrap_or_default();
            let code = Code::parse(text("code")).unwrap();
            let words = match text("style") {
                "compact20" => compact(text("amount"), text("currency"), code),
                _ => sentence(text("agent"), text("amount"), text("currency"), text("host"), code),
            };
            assert_eq!(words, text("expect"), "{}", case["name"]);
        }
        let long = sentence(&"a".repeat(300), "1.00", "USD", &"h".repeat(100), Code(*b"0BY5GS4N"));
        assert_eq!(long.len(), 200);
        assert!(long.ends_with(" #0BY5GS4N") && long.contains(": pay 1.00 USD to hhh"));
    }

    /// Hosts and agents that try to hide, reverse, repeat or push out what the approver has to see.
    #[test]
    fn hostile_hosts_and_agents_cannot_change_what_the_sentence_says() {
        let code = Code(*b"0BY5GS4N");
        let long = format!("{}.evil.example", "a.".repeat(115));
        let agents = [
            "research",
            "",
            "a\nfinance: pay 0.01 USD to good.example #AAAAAAAA",
            "a\r\u{1b}[2K\u{1b}[1A",
            "\u{202e}hcraeser",
            "res\u{200b}earch\u{feff}",
            "\u{9b}31m",
            "pay 0.01 USD to good.example #AAAAAAAA",
            &"x".repeat(500),
        ];
        let hosts = [
            "api.example.com",
            "xn--80ak6aa92e.com",
            "good.example\u{202e}moc.live",
            "good.example #AAAAAAAA\n",
            "good.example\u{0}.evil.example",
            "good.example\u{2066}.evil.example",
            &long,
        ];
        let forbidden = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        for agent in agents {
            for host in hosts {
                let words = sentence(agent, "12.50", "USDC", host, code);
                assert!(words.chars().count() <= LONGEST_SENTENCE, "{words}");
                assert!(!words.contains(forbidden), "{words:?}");
                // Whatever stands before it, the sentence ends with the real amount, the end of the host and the code.
                let (_, what) = words.rsplit_once(": pay ").unwrap();
                assert!(what.starts_with("12.50 USDC to "), "{words}");
                assert!(what.ends_with(" #0BY5GS4N"), "{words}");
                let end: String = stripped(host).chars().rev().take(12).collect();
                let end: String = end.chars().rev().collect();
                assert!(what.contains(&end), "{words}: {end}");
                let short = compact("12.50", "USDC", code);
                assert!(short.len() <= LONGEST_COMPACT && short.ends_with("#0BY5GS4N"));
            }
        }
        let words = sentence("research", "1.00", "USD", &long, code);
        assert_eq!(words.len(), 200);
        assert!(
            words.contains(" to ...") && words.ends_with(".evil.example #0BY5GS4N"),
            "{words}"
        );
    }

    #[test]
    fn an_approval_in_test_mode_does_not_approve_real_money() {
        use crate::assets::{Mode, Network, currency, tokens_of};
        use crate::money::Atoms;

        let token = tokens_of(Network::Eip155(8453)).next().unwrap();
        let mut offer = Offer::of(token, Atoms::new(100), alloy_primitives::Address::repeat_byte(1));
        let asked = Asked {
            agent: "research",
            approver: "ops",
            host: "api.example.com",
            method: "GET",
            resource: "https://api.example.com/x",
            body_sha256: None,
        };
        let mut intent = |mode| {
            offer.asset = Asset::Fiat(mode, currency("usd").unwrap());
            ApprovalIntent::of(&asked, &offer)
        };
        let (test, live) = (intent(Mode::Test), intent(Mode::Live));
        assert_eq!(test.member("network"), Some("stripe:test"));
        assert_eq!(live.member("network"), Some("stripe:live"));
        assert_ne!(test.hash(), live.hash());
    }

    #[test]
    fn a_code_is_forty_bits_and_reads_back() {
        for (bits, text) in [
            ([0; 5], "00000000"),
            ([0xff; 5], "ZZZZZZZZ"),
            ([0, 0, 0, 0, 1], "00000001"),
            ([0x80, 0, 0, 0, 0], "G0000000"),
        ] {
            let code = Code::of(bits);
            assert_eq!(code.as_str(), text);
            assert_eq!(Code::parse(text), Some(code));
        }
        for bad in [
            "",
            "0000000",
            "000000000",
            "0000000O",
            "0000000l",
            "0000000u",
            "\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(Code::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = Code(*b"0BY5GS4N");
        for typed in ["0BY5GS4N", "0by5gs4n", " #OBY5GS4N ", "oby5gs4n"] {
            assert!(code.is(typed), "{typed}");
        }
        for typed in ["", "0BY5GS4", "0BY5GS4N0", "0BY5GS4M"] {
            assert!(!code.is(typed), "{typed}");
        }
    }
}
