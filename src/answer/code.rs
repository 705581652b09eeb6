//! Every problem code, once, with its texts: why bursar answers a request itself.
//!
//! Problem documents, `docs/codes.md` and `bursar explain-code` are made from this table. A code is a contract: scripts match
//! it, so it is never renamed (R37).

use http::StatusCode;

use bursar_core::policy::RefusalCode;
use bursar_net::dial::DialError;
use bursar_net::shares::{By, Full};
use bursar_net::tls::upstream::HandshakeError;
use bursar_net::upstream::UpstreamError;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// The last part of the problem's `type`.
    pub code: &'static str,
    pub status: StatusCode,
    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    pub error: &'static str,
    pub title: &'static str,
    /// When this happens, and what it means for the money.
    pub meaning: &'static str,
    pub what_to_do: &'static str,
}

const REQUEST_ERROR: &str = "http_request_error";
const DENIED: &str = "http_request_denied";
const INTERNAL: &str = "proxy_internal_error";

macro_rules! codes {
    ($($name:ident $code:literal $status:ident $error:expr;
        $title:literal
        $meaning:literal
        $what_to_do:literal)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $($name,)+
        }

        impl Code {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            pub(crate) const fn spec(self) -> Spec {
                match self {
                    $(Self::$name => Spec {
                        code: $code,
                        status: StatusCode::$status,
                        error: $error,
                        title: $title,
                        meaning: $meaning,
                        what_to_do: $what_to_do,
                    },)+
                }
            }
        }
    };
}

codes! {
    BadRequest "bad-request" BAD_REQUEST REQUEST_ERROR;
        "The proxy cannot forward this request"
        "A proxy cannot forward the request: it names no host, has an unusable target, or has too many header fields."
        "Send CONNECT or a full URL to the proxy. `bursar env --agent NAME` prints the variables that clients need."
    ProxyAuthentication "proxy-authentication" PROXY_AUTHENTICATION_REQUIRED DENIED;
        "The proxy does not know which agent this is"
        "The proxy token is missing, wrong or expired, or the user name is not the name of the token's agent."
        "Use the token that `bursar agents add` or `bursar env` printed; `bursar agents rotate NAME` makes a new one."
    Loop "loop" LOOP_DETECTED "proxy_loop_detected";
        "The request leads back to this proxy"
        "The destination is the proxy itself, or another proxy on the way sends the request back here."
        "Take the proxy's own address out of the proxied hosts (`NO_PROXY`)."
    AgentPayment "agent-payment" FORBIDDEN DENIED;
        "Agents do not pay by themselves here"
        "The request carries a payment header of the agent's own. Nothing was forwarded."
        "Send the request without the payment header: bursar pays what the limits allow. The operator can set agent_payments = \"pass\" in bursar.toml."
    DestinationNotAllowed "destination-not-allowed" FORBIDDEN "destination_ip_prohibited";
        "This destination may not be reached through the proxy"
        "The site's address is private or special, and `allow_private` in bursar.toml does not list it."
        "Ask the operator to add the address to `allow_private` under [upstream] if agents should reach it."
    HostMismatch "host-mismatch" MISDIRECTED_REQUEST DENIED;
        "The request names another host than the tunnel"
        "`Host`, `:authority` or SNI differs from the host of CONNECT. A tunnel leads to one host, because budgets belong to hosts."
        "Open another tunnel for the other host."
    AgentBusy "agent-busy" SERVICE_UNAVAILABLE DENIED;
        "This agent uses all that one agent may use at once"
        "The agent has reached its limit of connections, requests, name look-ups or connections to sites. The limit leaves room \
         for the other agents. Nothing was forwarded and nothing was paid."
        "Close connections that are not used, send fewer requests at once, and try again after the time in `Retry-After`. The \
         operator can raise the numbers under [capacity] in bursar.toml, or the limit on open files (`ulimit -Hn`, LimitNOFILE)."
    ProxyBusy "proxy-busy" SERVICE_UNAVAILABLE INTERNAL;
        "All agents together use all that the proxy has"
        "Connections, requests, name look-ups or connections to sites are used up by all agents together. Nothing was \
         forwarded and nothing was paid."
        "Try again after the time in `Retry-After`. If it persists, the operator must raise the limit on open files \
         (`ulimit -Hn`, LimitNOFILE) or [capacity] in bursar.toml."
    UpstreamUnreachable "upstream-unreachable" BAD_GATEWAY "connection_refused";
        "The site could not be reached"
        "No connection to the site could be made. Nothing was paid."
        "Check the host and port, and try again later."
    UpstreamName "upstream-name" BAD_GATEWAY "dns_error";
        "The site's name could not be resolved"
        "The name has no address, or the name server did not answer. Nothing was paid."
        "Check the host name, and try again later."
    UpstreamCertificate "upstream-certificate" BAD_GATEWAY "tls_certificate_error";
        "The site's certificate could not be verified"
        "The site's certificate is expired, for another name, or signed by a CA that is not trusted. Nothing was paid."
        "If the site uses a private CA, ask the operator to add it to `extra_ca` under [upstream]."
    UpstreamBroken "upstream-broken" BAD_GATEWAY "connection_terminated";
        "The site broke off the exchange"
        "The connection ended before the site's answer was complete, or the answer was not usable HTTP. Nothing was paid."
        "Try again; if it happens each time, the fault is the site's."
    UpstreamTimeout "upstream-timeout" GATEWAY_TIMEOUT "http_response_timeout";
        "The site did not answer in time"
        "Connecting, the TLS handshake or the head of the answer took longer than [timeouts] in bursar.toml allows. Nothing was paid."
        "Try again later."
    WalletInsufficient "wallet-insufficient" FORBIDDEN DENIED;
        "The wallet does not hold enough for this payment"
        "The wallet holds less than the price. Nothing was paid."
        "The operator must fund the wallet; `bursar wallet show` prints its address."
    StoreUnavailable "store-unavailable" SERVICE_UNAVAILABLE INTERNAL;
        "The payment could not be recorded, so nothing was paid"
        "The ledger cannot be written or signed: the disk is full or failing, the database is unreachable, or another proxy has \
         newer limits. Requests that cost nothing still pass."
        "Try again after the time in `Retry-After`. The operator finds the cause in the log."
    SigningFailed "signing-failed" SERVICE_UNAVAILABLE INTERNAL;
        "The payment could not be signed, so nothing was sent to the merchant"
        "The wallet's key, the random number generator or the remote signer did not produce a usable signature."
        "The operator finds the cause in the log."
    PaymentDeclined "payment-declined" FORBIDDEN DENIED;
        "The payment was declined, so nothing was paid"
        "Stripe or the card's bank declined the payment or wants the card holder to confirm it, or the payment was not confirmed at BKey."
        "The operator must check the payment method under [stripe], or the person must confirm the payment; trying again unchanged does not help."
    TokenUnavailable "token-unavailable" SERVICE_UNAVAILABLE INTERNAL;
        "Stripe issued no token, so nothing was paid"
        "Stripe did not issue a payment token, or not before the site's offer ended."
        "Try again later. If it persists, the operator must check [stripe] in bursar.toml."
    SignerUnavailable "signer-unavailable" SERVICE_UNAVAILABLE INTERNAL;
        "BKey made no credential, so nothing was sent"
        "BKey cannot be reached, refuses, or does not say whether it signed. If it may have signed, the payment stays \
         counted."
        "Try again later if the answer says that it is retryable; otherwise the operator must check BKey's client and scopes."
    SignerPending "signer-pending" SERVICE_UNAVAILABLE DENIED;
        "A person has yet to confirm this payment on the phone"
        "BKey asked a person to confirm the payment, and that has not happened yet. The site was sent nothing; the payment counts."
        "Send the same request again later; once the payment is confirmed, it goes through."
    ApprovalPending "approval-pending" SERVICE_UNAVAILABLE DENIED;
        "A person has yet to approve this payment"
        "A person was asked to approve the payment and has not decided yet. Nothing was paid. The status is 503 unless `pending_status` in bursar.toml says otherwise."
        "Send the same request again: it joins the same question and is paid once that is approved."
    ApprovalDenied "approval-denied" FORBIDDEN DENIED;
        "A person denied this payment"
        "A person denied the payment. Nothing was paid, and the same is not asked again for `deny_cooldown_s` (300 s)."
        "Do not send it again; talk to the approver."
    ApprovalExpired "approval-expired" SERVICE_UNAVAILABLE DENIED;
        "No approval was given or used in time"
        "Nobody decided in time, or the approval was not used in time, was used by another request for the same terms, \
         or does not match what the site asks for now. Nothing was paid."
        "Send the same request again to ask anew."
    ApprovalFailed "approval-failed" SERVICE_UNAVAILABLE INTERNAL;
        "Nobody could be asked about this payment"
        "The approval backend did not answer, gave an answer that proves nothing, or no suitable approver is configured. Nothing was paid."
        "Try again later if the answer says that it is retryable; otherwise the operator must check [approval] in bursar.toml."
    ApprovalBusy "approval-busy" SERVICE_UNAVAILABLE DENIED;
        "Too many approvals are being asked for"
        "The agent or the approver has too many open questions, too many were asked within the hour, or the same question belongs to another `Idempotency-Key` or to another proxy on the same ledger. Nothing was paid."
        "Finish the open questions, or wait for the time in `Retry-After`."
    AnswerLost "answer-lost" BAD_GATEWAY "connection_terminated";
        "Paid, but the site's answer was lost"
        "The payment was sent and the connection broke before the answer came. Its outcome is unknown, and it stays counted."
        "Send the same request again: it presents the same payment while that is valid, and pays nothing new."
    AnswerLate "answer-late" GATEWAY_TIMEOUT "http_response_timeout";
        "Paid, but the site has not answered in time"
        "The payment was sent and no answer came in time. Its outcome is unknown, and it stays counted."
        "Send the same request again: it presents the same payment while that is valid, and pays nothing new."
    PaymentInDoubt "payment-in-doubt" CONFLICT DENIED;
        "The outcome of an earlier payment for this request is unknown"
        "This same request was paid for before, or BKey may have signed for it, and it is unknown whether the site \
         took the payment. Nothing new was paid."
        "Wait 15 minutes without repeating the request, or have the operator run `bursar payments resolve ID`."
    PaidNotDelivered "paid-not-delivered" CONFLICT DENIED;
        "This request is paid, but its answer was not delivered"
        "The site took a payment for this same request, but its answer did not arrive completely. Nothing new was paid."
        "Ask the merchant, and quote the transaction that `bursar payments show ID` prints. A new purchase is possible \
         15 minutes after the last try."
    AlreadyPaid "already-paid" CONFLICT DENIED;
        "A payment was already made under this Idempotency-Key"
        "A payment was made under this `Idempotency-Key`, and the site asks for payment again. Nothing else is paid \
         under the key for 24 hours."
        "Use a new key to buy again."
    IdempotencyKeyReused "idempotency-key-reused" UNPROCESSABLE_ENTITY DENIED;
        "This Idempotency-Key belongs to another request"
        "A payment was made for another request under this `Idempotency-Key`. Nothing was forwarded."
        "Use a different key for each request."
    IdempotencyKeyUnusable "idempotency-key-unusable" BAD_REQUEST DENIED;
        "This Idempotency-Key cannot be used"
        "The site asks for payment, and the key is empty, longer than 1024 bytes, or the request carries several \
         different keys. Nothing was paid."
        "Send one key of 1 to 1024 bytes, or none."
}

/// A refusal by limits, in the same shape.
pub(super) const fn refusal(code: RefusalCode) -> Spec {
    Spec {
        code: code.code(),
        status: StatusCode::FORBIDDEN,
        error: DENIED,
        title: "The limits do not allow this payment",
        meaning: code.meaning(),
        what_to_do: code.what_to_do(),
    }
}

/// Which code a refusal for lack of room gets: whether the agent or the operator can do something.
pub(super) const fn full(full: Full) -> Code {
    match full.by {
        By::Agent => Code::AgentBusy,
        By::All => Code::ProxyBusy,
    }
}

/// Which code an unreachable site gets, by cause.
pub(super) fn unreachable(error: &UpstreamError) -> Code {
    match error {
        UpstreamError::Dial(DialError::Guard { .. }) => Code::DestinationNotAllowed,
        UpstreamError::Dial(DialError::Loop { .. }) => Code::Loop,
        UpstreamError::Dial(DialError::Full(full)) => self::full(*full),
        UpstreamError::Dial(DialError::Host(_) | DialError::Dns { .. }) => Code::UpstreamName,
        UpstreamError::Dial(DialError::Timeout(_))
        | UpstreamError::Tls(HandshakeError::Timeout)
        | UpstreamError::Timeout => Code::UpstreamTimeout,
        UpstreamError::Dial(DialError::Refused | DialError::Unreachable { .. }) => Code::UpstreamUnreachable,
        UpstreamError::Tls(HandshakeError::Certificate(_)) => Code::UpstreamCertificate,
        UpstreamError::Tls(_)
        | UpstreamError::Setup(_)
        | UpstreamError::H1(_)
        | UpstreamError::Broken(_)
        | UpstreamError::Fields => Code::UpstreamBroken,
    }
}
