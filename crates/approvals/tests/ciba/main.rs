//! The CIBA client against a BKey on loopback with faults, and against real counterparts: `bkey-sdk` says that the fake is
//! faithful, `oidc-provider` that the standard style is standard.

#[path = "../../../../tests/it/support/bkey.rs"]
mod bkey;
mod fake;
mod faults;
mod provider;
mod sdk;
mod support;
