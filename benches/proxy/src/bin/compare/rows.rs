//! Who is compared.

use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Row {
    /// No proxy.
    Direct,
    /// A floor: bytes are copied.
    Splice,
    /// A floor: hyper on both sides.
    Parse,
    /// A peer.
    Hudsucker,
    Bursar,
    /// Another build of bursar.
    Against,
}

impl Row {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Splice => "splice",
            Self::Parse => "parse",
            Self::Hudsucker => "hudsucker",
            Self::Bursar => "bursar",
            Self::Against => "against",
        }
    }
}
