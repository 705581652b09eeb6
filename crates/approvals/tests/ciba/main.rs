//! The CIBA client against a fake BKey on loopback with faults, and against real software: `bkey-sdk` checks that the
//! fake is faithful, `oidc-provider` that the standard style follows the standard.

#[path = "../../../../tests/it/support/bkey.rs"]
mod bkey;
mod fake;
mod faults;
mod provider;
mod sdk;
mod support;
