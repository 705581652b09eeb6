//! MPP: the `Payment` challenges in `WWW-Authenticate`, and which of them become offers (MPP §2, §3, §8, §11.1).
//!
//! All challenges of a 402 are alternatives. A bad one is skipped and reported; the others are used. bursar pays
//! `charge` by `evm`, `tempo` and `stripe`. It recognises the other methods and intents, so that an agent learns which
//! rail the site would have accepted.

mod digest;
mod evm;
mod field;
mod payment;
pub(super) mod receipt;
mod statement;
pub mod stripe;
pub mod tempo;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

use super::json::Object;
use super::requirement::address;
use super::{Challenge, Offer, Place, Protocol, Unpayable, Why};
use crate::assets::{self, Network, Token};
use payment::{Payment, integer};
pub use statement::Statement;

/// How a challenge is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Evm,
    Stripe,
    Tempo,
    Usdc,
    Solana,
    Lightning,
    Card,
    Stellar,
    Hedera,
    NearIntents,
    /// A well-formed name that bursar does not know.
    Other,
}

/// What the payment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// One payment of a fixed amount.
    Charge,
    /// A deposit that the seller draws on.
    Session,
    /// A standing right to charge the payer.
    Subscription,
    Other,
}

impl Method {
    /// The draft allows only letters, but servers use `[a-z][a-z0-9:_-]*`.
    fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(|first: char| first.is_ascii_lowercase())?;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b':' | b'_' | b'-');
        rest.bytes().all(is_plain).then_some(match name {
            "evm" => Self::Evm,
            "stripe" => Self::Stripe,
            "tempo" => Self::Tempo,
            "usdc" => Self::Usdc,
            "solana" => Self::Solana,
            "lightning" => Self::Lightning,
            "card" => Self::Card,
            "stellar" => Self::Stellar,
            "hedera" => Self::Hedera,
            "nearintents" => Self::NearIntents,
            _ => Self::Other,
        })
    }
}

impl Intent {
    fn parse(name: &str) -> Option<Self> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        name.bytes().all(is_plain).then_some(match name {
            "charge" => Self::Charge,
            "session" => Self::Session,
            "subscription" => Self::Subscription,
            _ => Self::Other,
        })
    }
}

/// The `Payment` challenges of a 402, in the server's order; empty if there are none.
pub(super) fn read(headers: &HeaderMap) -> Challenge {
    let mut challenge = Challenge {
        offers: Vec::new(),
        unpayable: Vec::new(),
    };
    let fields = headers.get_all(WWW_AUTHENTICATE).iter();
    let found = fields.flat_map(|value| field::challenges(value.as_bytes()));
    for (position, parameters) in found.enumerate() {
        let payment = parameters.and_then(|parameters| Payment::read(&parameters));
        match payment.and_then(|payment| offer(position, &payment)) {
            Ok(offer) => challenge.offers.push(offer),
            Err(why) => challenge.unpayable.push(Unpayable {
                place: Place::of(Protocol::Mpp, position),
                why,
            }),
        }
    }
    challenge
}

fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    match payment.intent {
        Intent::Charge => {}
        Intent::Session => return Err(Why::MppSession),
        Intent::Subscription => return Err(Why::MppSubscription),
        Intent::Other => return Err(Why::MppIntentUnknown),
    }
    Err(match payment.method {
        Method::Evm => return evm::offer(position, payment),
        Method::Stripe => return stripe::offer(position, payment),
        Method::Tempo => return tempo::offer(position, payment),
        Method::Usdc => Why::MppUsdc,
        Method::Solana => Why::MppSolana,
        Method::Lightning => Why::MppLightning,
        Method::Card => Why::MppCard,
        Method::Stellar => Why::MppStellar,
        Method::Hedera => Why::MppHedera,
        Method::NearIntents => Why::MppNearIntents,
        Method::Other => Why::MppMethodUnknown,
    })
}

/// The token that a request for a chain names. Only our table says what the token is; the server's description must
/// agree.
fn token_on_chain(request: &Object<'_>, details: &Object<'_>) -> Result<&'static Token, Why> {
    let chain = details.member("chainId").ok_or(Why::ChainMissing)?;
    let network = Network::Eip155(integer(chain).ok_or(Why::NetworkMalformed)?);
    if assets::tokens_of(network).next().is_none() {
        return Err(Why::NetworkUnsupported);
    }
    let text = request.text("currency").ok_or(Why::AssetMalformed)?;
    let token = address(&text).ok_or(Why::AssetMalformed)?;
    assets::token(network, &token).ok_or(Why::AssetUnknown)
}
