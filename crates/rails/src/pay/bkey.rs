//! Credentials that BKey makes for a ledger record: an authorization signed on the phone, or a token for a card that
//! BKey keeps (approvals §4.6).
//!
//! An order is built from the record alone, and nothing that comes back is trusted: every member is compared with the
//! record, and the signer is recovered over typed data that we build. A credential that was ordered may exist somewhere
//! whatever BKey says about it, so a payment without a credential stays counted unless BKey cannot have made one (R11).

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::evm;
use super::issuer::{Exposure, Tokens};
use crate::bkey::{
    self, AuthorizationOrder, Bkey, Created, Looked, NoWalletAnswer, Pending, Product, Purpose, TokenOrder, Unanswered,
    WalletAnswer,
};
use crate::stripe::{PaymentMethod, TokenId};
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::{Asset, Mode, Token, token};
use bursar_core::challenge::{Authorization, CENT, Rail, Term};
use bursar_core::clock;
use bursar_core::money::Atoms;
use bursar_ledger::{ArmedNonce, Issued, Reason, Reservation, Signer};

const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Signs for one token of one network, with a key that is kept on a phone.
pub struct BkeySigner {
    bkey: Arc<Bkey>,
    address: Address,
    token: &'static Token,
}

/// Issues Shared Payment Tokens for a card that BKey keeps.
pub struct BkeyIssuer {
    bkey: Arc<Bkey>,
    payment_method: PaymentMethod,
    tokens: Tokens,
}

/// Why BKey cannot sign for us.
#[derive(Debug, Error)]
pub enum NoSigner {
    #[error(transparent)]
    NoAnswer(#[from] NoWalletAnswer),
    #[error(
        "BKey's wallet is on eip155:{chain} with the token {contract}, which is not in bursar's table of tokens, so \
         bursar cannot check what would be signed; use a key of your own under [wallet.evm]"
    )]
    UnknownToken { chain: u64, contract: Address },
    #[error(
        "BKey's wallet pays with {0}, but bursar can pay through BKey only with an EIP-3009 token of 6 decimals; use a \
         key of your own under [wallet.evm]"
    )]
    OtherKind(&'static str),
}

/// A credential that BKey made, already compared with the record.
pub enum RemoteCredential {
    Authorization(Box<Signed>),
    Token(TokenId),
}

/// A signature, and what must be on record before it is sent.
pub struct Signed {
    pub issued: Issued,
    pub(super) signature: [u8; 65],
}

/// The outcome of an order.
pub enum Ordered {
    Made(RemoteCredential),
    /// A person has to confirm it on the phone.
    Waits(Waiting),
}

/// An order that waits for a person to confirm it.
pub struct Waiting {
    pending: Pending,
    /// When BKey gives up waiting.
    until: Instant,
    look_at: Instant,
}

/// Why there is nothing to send.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct SignError {
    /// A stable code, for the ledger.
    pub why: Reason,
    pub left: Exposure,
    pub fault: SignerFault,
    /// A signature for exactly this payment exists, but its validity is one for which it must not be sent. Once it is
    /// on record, the chain can eventually prove that it was never cashed.
    pub signed: Option<Box<Issued>>,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerFault {
    /// BKey refused: our client, its scopes, or the order itself.
    Refused,
    /// BKey could not be reached, or its answer is unclear.
    Silent,
    /// What BKey made does not match the order.
    Differs,
    /// BKey says that it was not confirmed.
    NotConfirmed,
}

impl BkeySigner {
    /// `wallet` is BKey's answer about its wallet; the token must be in our table.
    pub fn new(bkey: Arc<Bkey>, wallet: &WalletAnswer) -> Result<Self, NoSigner> {
        let network = bursar_core::assets::Network::Eip155(wallet.chain_id);
        let token = token(network, &wallet.contract).ok_or(NoSigner::UnknownToken {
            chain: wallet.chain_id,
            contract: wallet.contract,
        })?;
        if token.decimals != 6 || token.standard != bursar_core::assets::Standard::Eip3009 {
            return Err(NoSigner::OtherKind(token.symbol));
        }
        Ok(Self {
            bkey,
            address: wallet.address,
            token,
        })
    }

    pub fn address(&self) -> Address {
        self.address
    }

    /// The token that it signs for.
    pub fn token(&self) -> &'static Token {
        self.token
    }

    pub fn mark(&self) -> AccountMark {
        self.bkey.mark()
    }

    pub(super) async fn order(
        &self,
        reservation: &Reservation,
        purpose: &Purpose,
        now: impl Fn() -> Timestamp,
    ) -> Result<Ordered, SignError> {
        let order = self.of(reservation, purpose).ok_or_else(SignError::other_record)?;
        let judge = |made| self.judge(reservation, &made, now());
        ordered(self.bkey.order_authorization(&order), judge).await
    }

    /// `None` if the order was still undecided at `until`.
    pub(super) async fn wait(
        &self,
        reservation: &Reservation,
        waiting: &mut Waiting,
        until: Instant,
        now: impl Fn() -> Timestamp,
    ) -> Option<Result<RemoteCredential, SignError>> {
        let judge = |made| self.judge(reservation, &made, now());
        waiting.poll(&self.bkey, until, judge).await
    }

    /// The order for a record, with the record's own numbers.
    fn of<'a>(&self, reservation: &Reservation, purpose: &'a Purpose) -> Option<AuthorizationOrder<'a>> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let is_ours = terms.rail == Rail::X402
            && terms.asset == Asset::Token(self.token)
            && arm.from == Account::Address(self.address)
            && (arm.signer, arm.nonce) == (Some(Signer::Bkey), ArmedNonce::Signers);
        let cents = terms.amount.get().checked_div(CENT)?;
        let whole = terms.amount.get().is_multiple_of(CENT);
        Some(AuthorizationOrder {
            cents: u64::try_from(cents)
                .ok()
                .filter(|cents| is_ours && whole && *cents > 0)?,
            recipient: terms.payee.address()?,
            chain_id: self.token.chain,
            purpose,
        })
    }

    fn judge(
        &self,
        reservation: &Reservation,
        made: &bkey::Authorization,
        now: Timestamp,
    ) -> Result<RemoteCredential, SignError> {
        let signed = self.compare(reservation, made).map_err(SignError::differs)?;
        // The authorization must be valid now, long enough for the seller to cash it, and no longer than the ledger
        // counts on.
        let (now, latest) = (clock::unix_second(now), reservation.arm().valid_before);
        let late = match &signed.issued {
            issued if issued.valid_after > now => Some("validAfter"),
            issued if issued.valid_before > latest => Some("validBefore"),
            issued if issued.valid_before < now.saturating_add(Term::LEAST_S) => Some("validBefore"),
            _ => None,
        };
        match late {
            None => Ok(RemoteCredential::Authorization(Box::new(signed))),
            Some(member) => Err(SignError {
                signed: Some(Box::new(signed.issued)),
                ..SignError::differs(member)
            }),
        }
    }

    /// Compares all members except the times, which the signer chooses. The error is the first member that differs from
    /// the record.
    fn compare(&self, reservation: &Reservation, made: &bkey::Authorization) -> Result<Signed, &'static str> {
        let terms = reservation.terms();
        let same = |is_same: bool, member: &'static str| is_same.then_some(()).ok_or(member);
        same(made.contract == self.token.address, "contractAddress")?;
        same(made.chain_id == self.token.chain, "chainId")?;
        same(made.from == self.address, "from")?;
        same(Some(made.to) == terms.payee.address(), "to")?;
        same(made.value == terms.amount.get(), "value")?;
        let signed = Authorization {
            network: self.token.network(),
            from: self.address,
            to: made.to,
            value: Atoms::new(made.value),
            valid_after: made.valid_after,
            valid_before: made.valid_before,
            nonce: made.nonce,
        };
        let signature = evm::canonical(&made.signature).ok_or("signature")?;
        let signer = evm::signer_of(self.token, &signed, &signature);
        same(signer == Some(self.address), "signature")?;
        Ok(Signed {
            issued: Issued {
                nonce: made.nonce,
                valid_after: made.valid_after,
                valid_before: made.valid_before,
                authorization: made.id.clone(),
            },
            signature,
        })
    }
}

impl BkeyIssuer {
    pub fn new(bkey: Arc<Bkey>, payment_method: PaymentMethod, tokens: Tokens) -> Self {
        Self {
            bkey,
            payment_method,
            tokens,
        }
    }

    /// BKey documents no test mode.
    pub fn mode(&self) -> Mode {
        Mode::Live
    }

    /// What payments come from.
    pub fn account(&self) -> Option<Account> {
        Account::parse(self.payment_method.as_str())
    }

    pub fn mark(&self) -> AccountMark {
        self.bkey.mark()
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) async fn order(
        &self,
        reservation: &Reservation,
        purpose: &Purpose,
        now: impl Fn() -> Timestamp,
    ) -> Result<Ordered, SignError> {
        let order = self.of(reservation, purpose).ok_or_else(SignError::other_record)?;
        let judge = |made| self.judge(reservation, &order, made, now());
        ordered(self.bkey.order_token(&order), judge).await
    }

    /// Like [`BkeySigner::wait`].
    pub(super) async fn wait(
        &self,
        reservation: &Reservation,
        waiting: &mut Waiting,
        purpose: &Purpose,
        until: Instant,
        now: impl Fn() -> Timestamp,
    ) -> Option<Result<RemoteCredential, SignError>> {
        let Some(order) = self.of(reservation, purpose) else {
            return Some(Err(SignError::other_record()));
        };
        let judge = |made| self.judge(reservation, &order, made, now());
        waiting.poll(&self.bkey, until, judge).await
    }

    fn of<'a>(&'a self, reservation: &Reservation, purpose: &'a Purpose) -> Option<TokenOrder<'a>> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let is_dollars = matches!(terms.asset, Asset::Fiat(Mode::Live, currency) if currency.code == "usd");
        let is_ours = terms.rail == Rail::MppStripe
            && is_dollars
            && Some(&arm.from) == self.account().as_ref()
            && (arm.signer, arm.issuer) == (Some(Signer::Bkey), Some(self.mark()));
        Some(TokenOrder {
            cents: u64::try_from(terms.amount.get())
                .ok()
                .filter(|cents| is_ours && *cents > 0)?,
            payment_method: &self.payment_method,
            purpose,
        })
    }

    /// The token is stored before it is judged or sent anywhere: it may be all that an operator has to go by.
    fn judge(
        &self,
        reservation: &Reservation,
        order: &TokenOrder<'_>,
        made: bkey::Token,
        now: Timestamp,
    ) -> Result<RemoteCredential, SignError> {
        self.tokens.keep(reservation.rid(), &made.token);
        let now = clock::unix_second(now);
        let same = |is_same: bool, member: &'static str| is_same.then_some(()).ok_or(SignError::differs(member));
        let latest = reservation.arm().valid_before;
        let in_time = |at: u64| at <= latest && at >= now.saturating_add(Term::LEAST_S);
        same(made.expires_at.is_none_or(in_time), "expiresAt")?;
        same(made.cents.is_none_or(|cents| cents == order.cents), "amountCents")?;
        let dollars = |currency: &String| currency.eq_ignore_ascii_case("usd");
        same(made.currency.as_ref().is_none_or(dollars), "currency")?;
        let paid_by = |method: &String| method == self.payment_method.as_str();
        same(made.payment_method.as_ref().is_none_or(paid_by), "paymentMethodId")?;
        Ok(RemoteCredential::Token(made.token))
    }
}

/// Sends an order; its outcome, once BKey has answered.
async fn ordered<T>(
    order: impl Future<Output = Result<Created<T>, Unanswered>>,
    judge: impl FnOnce(T) -> Result<RemoteCredential, SignError>,
) -> Result<Ordered, SignError> {
    let at = Instant::now();
    match order.await {
        Ok(Created::Made(made)) => made.map_err(SignError::unreadable).and_then(judge).map(Ordered::Made),
        Ok(Created::Pending(pending)) => Ok(Ordered::Waits(Waiting::since(at, pending))),
        Ok(Created::Refused(status)) => Err(SignError::refused(status)),
        Ok(Created::Unclear(status)) => Err(SignError::unclear(status)),
        Err(unanswered) => Err(SignError::unanswered(unanswered)),
    }
}

impl Waiting {
    fn since(ordered_at: Instant, pending: Pending) -> Self {
        Self {
            until: ordered_at + pending.life(),
            look_at: Instant::now() + pending.interval(),
            pending,
        }
    }

    /// BKey's id of the order.
    pub fn id(&self) -> &str {
        self.pending.id()
    }

    /// The time after which, according to BKey, the order can no longer be confirmed.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Polls until the order is decided; `None` if it was still undecided at `until`.
    async fn poll<T: Product>(
        &mut self,
        bkey: &Bkey,
        until: Instant,
        judge: impl FnOnce(T) -> Result<RemoteCredential, SignError>,
    ) -> Option<Result<RemoteCredential, SignError>> {
        while self.rest(until).await {
            match bkey.look(&self.pending).await {
                Looked::Made(made) => return Some(made.map_err(SignError::unreadable).and_then(judge)),
                Looked::Over(why) => return Some(Err(SignError::over(why))),
                Looked::Wait(pause) => self.looked(pause),
            }
        }
        (Instant::now() >= self.until).then(|| Err(SignError::over(Reason::SignerNotConfirmed)))
    }

    /// Waits until the next poll is due; `false` if none is due before `until`.
    async fn rest(&self, until: Instant) -> bool {
        let end = until.min(self.until);
        if self.look_at > end {
            sleep_until(end).await;
            return false;
        }
        sleep_until(self.look_at).await;
        true
    }

    fn looked(&mut self, pause: Option<Duration>) {
        let pause = pause.unwrap_or_default().clamp(self.pending.interval(), MAX_PAUSE);
        self.look_at = Instant::now() + pause;
    }
}

impl SignError {
    fn perhaps(why: Reason, fault: SignerFault, detail: String) -> Self {
        Self {
            why,
            left: Exposure::Perhaps,
            fault,
            signed: None,
            detail,
        }
    }

    /// BKey was not asked, or says that it did not accept the order.
    fn nothing(why: Reason, fault: SignerFault, detail: String) -> Self {
        Self {
            left: Exposure::Nothing,
            ..Self::perhaps(why, fault, detail)
        }
    }

    fn differs(member: &'static str) -> Self {
        let detail = format!("what BKey made does not match the order: its {member} differs");
        Self::perhaps(Reason::SignerDiffers, SignerFault::Differs, detail)
    }

    fn unreadable(member: &'static str) -> Self {
        let detail = format!("what BKey made cannot be read: its {member} is missing or malformed");
        Self::perhaps(Reason::SignerDiffers, SignerFault::Differs, detail)
    }

    fn over(why: Reason) -> Self {
        let detail = "BKey says that it was not confirmed on the phone".to_owned();
        Self::perhaps(why, SignerFault::NotConfirmed, detail)
    }

    /// The order may have been accepted, so the payment stays counted. A conflict, for example, may be with an order
    /// that was accepted.
    fn unclear(status: http::StatusCode) -> Self {
        let detail = format!(
            "BKey's answer does not say whether it took the order (status {})",
            status.as_u16()
        );
        Self::perhaps(Reason::SignerUnclear, SignerFault::Silent, detail)
    }

    fn refused(status: http::StatusCode) -> Self {
        let detail = format!("BKey refused the order (status {})", status.as_u16());
        match status.as_u16() {
            // A later try, or another access token, may succeed.
            401 | 429 => Self::nothing(Reason::SignerRefused, SignerFault::Silent, detail),
            _ => Self::nothing(Reason::SignerRefused, SignerFault::Refused, detail),
        }
    }

    fn unanswered(unanswered: Unanswered) -> Self {
        let detail = unanswered.to_string();
        match unanswered {
            Unanswered::Unanswered => Self::perhaps(Reason::SignerUnclear, SignerFault::Silent, detail),
            Unanswered::Unsent => Self::nothing(Reason::SignerUnreachable, SignerFault::Silent, detail),
            Unanswered::NotLoggedIn(code) if code.retryable() => {
                Self::nothing(Reason::SignerUnreachable, SignerFault::Silent, detail)
            }
            Unanswered::NotLoggedIn(_) => Self::nothing(Reason::SignerRefused, SignerFault::Refused, detail),
        }
    }

    fn other_record() -> Self {
        let detail = "the payment was recorded for a signer other than the one configured now".to_owned();
        Self::nothing(Reason::SignerOther, SignerFault::Refused, detail)
    }
}
