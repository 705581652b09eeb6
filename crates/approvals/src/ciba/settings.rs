//! How an identity server is used, as typed values that were checked when bursar.toml was read (approvals §12).

use std::time::Duration;

use super::assertion::AssertionKey;
use bursar_core::approval::token::Alg;
pub use bursar_net::oauth::Secret;
use bursar_net::oauth::issuer::Issuer;

/// One identity server, and bursar as its client.
pub struct CibaSettings {
    pub issuer: Issuer,
    pub client_id: String,
    pub client_auth: ClientAuth,
    pub options: CibaOptions,
}

/// What bursar.toml says about the server, apart from where it is and how bursar logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CibaOptions {
    pub style: Style,
    pub delivery: Delivery,
    /// The scope that an approval must grant. `openid` is requested in addition.
    pub scope: String,
    /// The audience that a token must have. `None`: our client id.
    pub audience: Option<String>,
    pub evidence: EvidenceToken,
    /// The JWS algorithms that a token's header may name.
    pub algs: Vec<Alg>,
    pub leeway: Duration,
    pub binding_style: BindingStyle,
    pub amount_unit: AmountUnit,
    /// The `type` of the `authorization_details` sent to a standard server. `None`: none are sent.
    pub details_type: Option<String>,
    /// Whether a token that does not name the payment is rejected (approvals §8.3).
    pub require_bound_details: bool,
    /// Hosts other than the issuer's that its metadata may use.
    pub hosts: Vec<String>,
}

/// As if bursar.toml said nothing.
impl Default for CibaOptions {
    fn default() -> Self {
        Self {
            style: Style::Bkey,
            delivery: Delivery::Poll,
            scope: "approve:payment".to_owned(),
            audience: None,
            evidence: EvidenceToken::AccessTokenJwt,
            algs: vec![Alg::EdDsa],
            leeway: Duration::from_secs(30),
            binding_style: BindingStyle::Sentence,
            amount_unit: AmountUnit::Minor,
            details_type: None,
            require_bound_details: false,
            hosts: Vec::new(),
        }
    }
}

impl CibaSettings {
    pub fn audience(&self) -> &str {
        self.options.audience.as_deref().unwrap_or(&self.client_id)
    }

    /// Always `Poll` with BKey, which does not send pings.
    pub fn delivery(&self) -> Delivery {
        match self.options.style {
            Style::Bkey => Delivery::Poll,
            Style::Standard => self.options.delivery,
        }
    }
}

/// The dialect in which questions are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// JSON with the agent's own token, and `action_details` (approvals §4.4).
    Bkey,
    /// A form with client authentication, and `authorization_details` where configured (approvals §2.2, §3).
    Standard,
}

/// How bursar learns that there is an answer. It polls in either mode (approvals §2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    #[default]
    Poll,
    /// The server also sends pings. Not with BKey, which documents polling only.
    Ping,
}

/// How the client authenticates, with the credential (approvals §2.4).
pub enum ClientAuth {
    Basic(Secret),
    Post(Secret),
    PrivateKeyJwt(Box<AssertionKey>),
}

impl ClientAuth {
    pub const fn method(&self) -> AuthMethod {
        match self {
            Self::Basic(_) => AuthMethod::Basic,
            Self::Post(_) => AuthMethod::Post,
            Self::PrivateKeyJwt(_) => AuthMethod::PrivateKeyJwt,
        }
    }
}

/// [`ClientAuth`] without the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    Basic,
    Post,
    PrivateKeyJwt,
}

/// Which token proves the approval (approvals §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvidenceToken {
    #[default]
    AccessTokenJwt,
    /// For servers whose access tokens are opaque.
    IdToken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindingStyle {
    #[default]
    Sentence,
    Compact20,
}

/// The unit of `action_details.amount`, which BKey does not document (approvals §4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmountUnit {
    #[default]
    Minor,
    Major,
    Omit,
}

macro_rules! named {
    ($type:ty { $($name:literal => $value:path),+ $(,)? }) => {
        impl $type {
            /// Parses the name used in bursar.toml.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some($value),)+
                    _ => None,
                }
            }
        }
    };
}

named!(Style { "bkey" => Self::Bkey, "standard" => Self::Standard });
named!(Delivery { "poll" => Self::Poll, "ping" => Self::Ping });
named!(AuthMethod { "basic" => Self::Basic, "post" => Self::Post, "private_key_jwt" => Self::PrivateKeyJwt });
named!(EvidenceToken { "access_token_jwt" => Self::AccessTokenJwt, "id_token" => Self::IdToken });
named!(BindingStyle { "sentence" => Self::Sentence, "compact20" => Self::Compact20 });
named!(AmountUnit { "minor" => Self::Minor, "major" => Self::Major, "omit" => Self::Omit });
