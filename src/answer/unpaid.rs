//! Why a 402 is passed on unpaid: the `details` of `Proxy-Status`, each once, with its texts.

use bursar_core::challenge::Why;
use bursar_core::policy;

/// A reason for passing a 402 on unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpaid {
    /// A fault of the challenge, or of each offer in it.
    Challenge(Why),
    /// The limits never pay for this.
    Policy(policy::Unpaid),
    AgentPays,
    NotOverTls,
    Upgrade,
    BodyTooLarge,
    BodyBrokenOff,
    /// It was paid, and the site asks for payment again.
    StillAfterPayment,
}

/// The reasons that are neither the challenge's nor the limits'.
const OURS: [Unpaid; 6] = [
    Unpaid::AgentPays,
    Unpaid::NotOverTls,
    Unpaid::Upgrade,
    Unpaid::BodyTooLarge,
    Unpaid::BodyBrokenOff,
    Unpaid::StillAfterPayment,
];

impl Unpaid {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let challenge = Why::ALL.iter().copied().map(Self::Challenge);
        let policy = policy::Unpaid::ALL.into_iter().map(Self::Policy);
        challenge.chain(policy).chain(OURS)
    }

    /// Stable text.
    pub(crate) const fn code(self) -> &'static str {
        self.row().0
    }

    /// One sentence, or two.
    pub(crate) const fn meaning(self) -> &'static str {
        self.row().1
    }

    pub(crate) const fn what_to_do(self) -> &'static str {
        self.row().2
    }

    /// Code, meaning and what to do in one sentence, for people and models that see header fields and nothing else.
    pub(crate) fn note(self) -> String {
        let happened = match self {
            Self::StillAfterPayment => "Paid, and not accepted",
            _ => "Not paid",
        };
        let texts = [self.meaning(), self.what_to_do()];
        let sentences = texts.iter().flat_map(|text| text.trim_end_matches('.').split(". "));
        let clauses: Vec<String> = sentences.map(clause).collect();
        format!("{happened} ({}): {}.", self.code(), clauses.join("; "))
    }

    /// Code, meaning, what to do.
    const fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Challenge(why) => (why.code(), why.text(), why.what_to_do()),
            Self::Policy(why) => (why.code(), why.meaning(), why.what_to_do()),
            Self::AgentPays => (
                "agent-pays",
                "The request carries a payment of the agent's own, and `agent_payments = \"pass\"` lets it through.",
                "Nothing, if the agent is meant to pay by itself; otherwise send the request without a payment header.",
            ),
            Self::NotOverTls => (
                "not-over-tls",
                "The site is not reached over verified TLS, and bursar pays only over verified TLS.",
                "Use the https URL. For tests, the operator can list the host in `allow_http_payments`.",
            ),
            Self::Upgrade => (
                "upgrade-not-paid",
                "The request asks for another protocol, such as WebSocket. Such handshakes are not paid for.",
                "Buy access with an ordinary request first, if the site offers that.",
            ),
            Self::BodyTooLarge => (
                "body-too-large-to-replay",
                "The request's body is larger than 1 MiB, or this agent's uploads, or all uploads together, use up the \
                 memory that is set aside for them, so it cannot be sent a second time with the payment.",
                "Send a smaller body, or try again when fewer uploads are running.",
            ),
            Self::BodyBrokenOff => (
                "body-broken-off",
                "The request's body ended before it was complete.",
                "Send the request again.",
            ),
            Self::StillAfterPayment => (
                "still-402-after-payment",
                "The payment was made, and the site still answers with 402. `Bursar-Payment` names the payment; it \
                 stays counted.",
                "Look at `bursar payments show ID`, and ask the merchant.",
            ),
        }
    }
}

/// A sentence as a part of another one. What begins with two capitals is a name.
fn clause(sentence: &str) -> String {
    let mut letters = sentence.chars();
    match letters.next() {
        Some(first) if !letters.as_str().starts_with(|next: char| next.is_ascii_uppercase()) => {
            first.to_ascii_lowercase().to_string() + letters.as_str()
        }
        _ => sentence.to_owned(),
    }
}
