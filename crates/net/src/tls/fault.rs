//! Why TLS with a site failed, in words for the reader of the agent's 502: what happened, whose fault it is, and what
//! helps. rustls's own texts are made for its developers and are never shown.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use bursar_core::host::Host;

/// How many of the certificate's names an error repeats.
const NAMES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the site's certificate was not accepted: {0}")]
    Certificate(CertificateFault),
    #[error("{0}")]
    ClientCertificate(ClientCertificate),
    #[error("the site does not speak TLS on this port, but something else, such as plain HTTP")]
    NotTls,
    #[error("the site speaks only TLS 1.0, TLS 1.1 or SSL; bursar needs TLS 1.2 or 1.3")]
    OldVersion,
    /// Most often it offers RSA key exchange or CBC ciphers only.
    #[error(
        "the site has no cipher suite or key exchange in common with bursar, which speaks TLS 1.2 and 1.3 with ECDHE and \
         AES-GCM or ChaCha20 only"
    )]
    NothingInCommon,
    #[error("the site does not know this host name and broke off the TLS handshake")]
    UnknownName,
    #[error("the site speaks none of the versions of HTTP that the agent offers (ALPN)")]
    NoProtocol,
    #[error("the site broke off the TLS handshake and gave as its reason: {0}")]
    BrokenOff(&'static str),
    #[error("the site does not follow the TLS standard, so bursar broke off the handshake")]
    Misbehaved,
    #[error("the connection to the site failed during the TLS handshake: {}", broken(.0))]
    Io(io::Error),
    #[error("the TLS handshake with the site took too long")]
    Timeout,
    #[error("bursar could not take part in the TLS handshake with the site")]
    Ours(Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    Expired(Option<Timestamp>),
    NotYetValid(Option<Timestamp>),
    /// What it is valid for, as far as these are names of hosts.
    WrongName(Vec<String>),
    /// It has no `subjectAltName`: only its common name may be that of the site.
    NoName,
    UnknownIssuer,
    /// The site presents the certificate of a CA as its own, and the operator has not named it.
    AuthoritysOwn,
    Revoked,
    /// An algorithm that is not accepted any more, such as SHA-1.
    WeakAlgorithm,
    BadSignature,
    Malformed,
    NotForServers,
    Unsupported,
    Absent,
}

/// The site asks the client for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It got none.
    Missing,
    /// It got one and did not accept it, or wants another kind of certificate than it got.
    Refused(&'static str),
}

impl HandshakeError {
    /// tokio-rustls wraps rustls's errors in I/O errors. `asked`: the site has asked for a client certificate, and there
    /// was none to present.
    pub(super) fn of(error: io::Error, asked: bool) -> Self {
        // What the words leave out may help to find the cause.
        tracing::debug!(%error, asked, "a TLS handshake failed");
        match error.downcast::<Error>() {
            Ok(error) => Self::of_tls(error, asked),
            // Servers that speak TLS 1.2 say so with a bare alert, or simply hang up.
            Err(_) if asked => Self::ClientCertificate(ClientCertificate::Missing),
            Err(error) => Self::Io(error),
        }
    }

    /// The cause, if an exchange failed because of TLS. In TLS 1.3 the site sees the client's certificate, or that there is
    /// none, only after the client's handshake has ended.
    pub fn behind(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let tls = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
            let tls = tls.map_or_else(|| error.downcast_ref(), |inner| inner.downcast_ref());
            if let Some(tls) = tls {
                return Some(Self::of_tls(Error::clone(tls), false));
            }
            cause = error.source();
        }
        None
    }

    fn of_tls(error: Error, asked: bool) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(CertificateFault::of(&error)),
            Error::NoCertificatesPresented => Self::Certificate(CertificateFault::Absent),
            Error::AlertReceived(alert) => Self::of_alert(alert, asked),
            Error::PeerIncompatible(incompatible) => match incompatible {
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Self::OldVersion,
                _ => Self::NothingInCommon,
            },
            Error::InvalidMessage(_) => Self::NotTls,
            Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => Self::Misbehaved,
            Error::DecryptError | Error::PeerSentOversizedRecord => Self::Misbehaved,
            Error::NoApplicationProtocol => Self::NoProtocol,
            other => Self::Ours(other),
        }
    }

    fn of_alert(alert: AlertDescription, asked: bool) -> Self {
        use AlertDescription as A;
        match alert {
            A::CertificateRequired => Self::ClientCertificate(ClientCertificate::Missing),
            // Alerts about a certificate are about the client's; bursar checks the site's.
            A::NoCertificate
            | A::BadCertificate
            | A::CertificateUnknown
            | A::UnsupportedCertificate
            | A::UnknownCA
            | A::AccessDenied
            | A::HandshakeFailure
                if asked =>
            {
                Self::ClientCertificate(ClientCertificate::Missing)
            }
            A::CertificateExpired => Self::ClientCertificate(ClientCertificate::Refused("it is expired")),
            A::CertificateRevoked => Self::ClientCertificate(ClientCertificate::Refused("it is revoked")),
            A::UnknownCA => Self::ClientCertificate(ClientCertificate::Refused("its issuer is unknown to the site")),
            A::UnsupportedCertificate => Self::ClientCertificate(ClientCertificate::Refused(
                "it is of a kind that the site does not support",
            )),
            A::NoCertificate | A::BadCertificate | A::CertificateUnknown => {
                Self::ClientCertificate(ClientCertificate::Refused("the site gave no closer reason"))
            }
            A::ProtocolVersion => Self::OldVersion,
            A::HandshakeFailure | A::InsufficientSecurity => Self::NothingInCommon,
            A::UnrecognisedName => Self::UnknownName,
            A::NoApplicationProtocol => Self::NoProtocol,
            A::AccessDenied => Self::BrokenOff("access denied"),
            A::InternalError => Self::BrokenOff("an internal error of its own"),
            A::DecodeError | A::UnexpectedMessage | A::IllegalParameter | A::RecordOverflow => {
                Self::BrokenOff("it does not understand the handshake")
            }
            A::DecryptError | A::BadRecordMac | A::DecryptionFailed => {
                Self::BrokenOff("what it received could not be decrypted, or was changed on the way")
            }
            A::UserCanceled => Self::BrokenOff("somebody cancelled it"),
            A::MissingExtension | A::UnsupportedExtension => Self::BrokenOff(
                "it needs an extension of TLS that bursar does not have, or cannot do with one that it has",
            ),
            A::EncryptedClientHelloRequired => Self::BrokenOff("it accepts only encrypted hellos (ECH)"),
            _ => Self::BrokenOff("a TLS alert that bursar does not know"),
        }
    }

    /// What the operator can do about it.
    pub const fn remedy(&self) -> Option<&'static str> {
        const PASS: &str = "If the site cannot be changed, the operator can let TLS with it pass untouched, and unpaid: \
                            passthrough = true in a section [[upstream.site]] for this host in bursar.toml.";
        match self {
            Self::Certificate(fault) => fault.remedy(),
            Self::ClientCertificate(ClientCertificate::Missing) => Some(
                "The operator can name one: client_cert and client_key in a section [[upstream.site]] for this host in \
                 bursar.toml.",
            ),
            Self::ClientCertificate(ClientCertificate::Refused(_)) => Some(
                "The operator can check client_cert and client_key in the section [[upstream.site]] for this host in \
                 bursar.toml.",
            ),
            Self::OldVersion | Self::NothingInCommon => Some(PASS),
            Self::NotTls => Some("Use an http:// URL if the site is meant to be reached without TLS."),
            _ => None,
        }
    }
}

/// Where it is not known whether a certificate was asked for.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::of(error, false)
    }
}

impl CertificateFault {
    fn of(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::ExpiredContext { not_after, .. } => Self::Expired(moment(*not_after)),
            E::Expired => Self::Expired(None),
            E::NotValidYetContext { not_before, .. } => Self::NotYetValid(moment(*not_before)),
            E::NotValidYet => Self::NotYetValid(None),
            E::NotValidForNameContext { presented, .. } if presented.is_empty() => Self::NoName,
            E::NotValidForNameContext { presented, .. } => Self::WrongName(names(presented)),
            E::NotValidForName => Self::WrongName(Vec::new()),
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            E::BadEncoding => Self::Malformed,
            E::BadSignature => Self::BadSignature,
            E::UnsupportedSignatureAlgorithmContext { .. }
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::WeakAlgorithm,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::NotForServers,
            E::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::CaUsedAsEndEntity) => Self::AuthoritysOwn,
                _ => Self::Unsupported,
            },
            _ => Self::Unsupported,
        }
    }

    const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::UnknownIssuer | Self::AuthoritysOwn => Some(
                "If the site's operator vouches for it, the operator of bursar can add the CA's certificate, or this very \
                 certificate, to `extra_ca` under [upstream] in bursar.toml.",
            ),
            Self::NoName => Some(
                "The site needs a certificate with a subjectAltName. Until then the operator of bursar can name this very \
                 certificate as `ca` in a section [[upstream.site]] for this host in bursar.toml.",
            ),
            Self::Expired(_) | Self::WeakAlgorithm | Self::NotForServers | Self::Malformed | Self::Unsupported => {
                Some("Only the site's operator can renew it.")
            }
            Self::NotYetValid(_) => Some("Either the site's operator or the clock of bursar's machine is early."),
            _ => None,
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired(Some(at)) => return write!(f, "it expired on {at}"),
            Self::Expired(None) => "it has expired",
            Self::NotYetValid(Some(at)) => return write!(f, "it is not valid before {at}"),
            Self::NotYetValid(None) => "it is not valid yet",
            Self::WrongName(names) if !names.is_empty() => {
                let shown = names[..names.len().min(NAMES)].join(", ");
                let more = if names.len() > NAMES { " and others" } else { "" };
                return write!(f, "it is for other names than this host: {shown}{more}");
            }
            Self::WrongName(_) => "it is for other names than this host",
            Self::NoName => "it names no host in subjectAltName, and its common name alone is not accepted",
            Self::UnknownIssuer => "it has an unknown issuer: bursar trusts no CA of that name and key",
            Self::AuthoritysOwn => "it is the certificate of a CA, or one that the site signed itself",
            Self::Revoked => "it was revoked",
            Self::WeakAlgorithm => "it is signed with an algorithm that is not accepted any more, such as SHA-1",
            Self::BadSignature => "a signature is wrong, or made with a key that is too short (RSA below 2048 bits)",
            Self::Malformed => "it is malformed",
            Self::NotForServers => "it was not issued for servers",
            Self::Unsupported => "it, or one of its issuers', has a property that bursar does not support",
            Self::Absent => "the site presented none",
        })
    }
}

impl fmt::Display for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the site asked for a client certificate, and bursar has none for it"),
            Self::Refused(why) => write!(f, "the site did not accept the client certificate: {why}"),
        }
    }
}

fn moment(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()
}

/// Each once: an address often stands there as a name too.
fn names(presented: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in presented.iter().filter_map(|presented| name(presented)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// webpki shows a name as `DnsName("a.example")` or `IpAddress(192.0.2.1)`. Only what is the name of a host is repeated:
/// anybody can have a certificate with any text in it.
fn name(presented: &str) -> Option<String> {
    let name = presented
        .strip_prefix("DnsName(\"")
        .and_then(|name| name.strip_suffix("\")"))
        .or_else(|| presented.strip_prefix("IpAddress(")?.strip_suffix(')'))?;
    let host = Host::parse(name.strip_prefix("*.").unwrap_or(name)).ok()?;
    Some(match name.starts_with("*.") {
        true => format!("*.{host}"),
        false => host.to_string(),
    })
}

/// The usual ways in which a connection ends; the rest as the system says it.
fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the site closed it".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the site reset it".to_owned(),
        io::ErrorKind::ConnectionAborted => "it was aborted".to_owned(),
        kind => kind.to_string(),
    }
}
