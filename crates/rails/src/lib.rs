//! How bursar pays: it turns a reservation of the ledger into the credential that a seller accepts, and asks the
//! services behind each rail what became of it.
//!
//! * [`pay`] is the only way to a key. [`pay::Payers`] holds everything that can pay: a [`pay::Wallet`] or BKey for
//!   tokens, Stripe ([`pay::Issuer`]) or BKey for cards. It signs only what a [`bursar_ledger::Reservation`] says.
//! * [`outstanding`] keeps what a repeat of a request needs while the outcome of its payment is unknown, so that the
//!   repeat presents the same credential instead of buying twice ([`outstanding::Outstanding`]).
//! * [`rpc`] asks the operator's nodes ([`rpc::Node`]). Their answers are checked, never trusted.
//! * [`stripe`] and [`bkey`] are the clients of those two services.
//! * [`balances`] watches what the wallet holds.
//!
//! Start reading at [`pay`]: it shows which rail makes which credential. The rules for repeats are at the top of
//! [`outstanding`]. The rails themselves are described in `docs/rails.md`.
//!
//! # Example
//!
//! ```
//! use bursar_rails::pay::Wallet;
//!
//! // The first development key of anvil. Everybody knows it, so never fund it.
//! let wallet = Wallet::from_hex("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")?;
//! assert_eq!(format!("{:#x}", wallet.address()), "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
//! # Ok::<(), bursar_rails::pay::WalletError>(())
//! ```
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod balances;
pub mod bkey;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod outstanding;
pub mod pay;
pub mod rpc;
pub mod stripe;
