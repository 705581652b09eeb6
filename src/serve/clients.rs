//! As whom bursar is known to an identity server: as bursar.toml says, or as BKey's own tools have it.

use std::path::PathBuf;

use secrecy::ExposeSecret;
use thiserror::Error;

use crate::approve::ciba::discovery::{Issuer, PlainHttp, UrlError};
use crate::bkey::{BkeyAgent, BkeyError, ProfilesFile};
use crate::config::approval::ciba::{Client, ClientId};
use crate::config::{SecretError, SecretSource};
use crate::home::Home;
use crate::oauth::Secret;

const BKEY: &str = "https://api.bkey.id";

/// A client of an identity server.
pub(super) struct Known {
    pub issuer: Issuer,
    pub id: String,
    pub secret: Secret,
    /// Who is asked where nobody is configured.
    pub approver: Option<String>,
}

/// Never quotes a secret.
#[derive(Debug, Error)]
pub enum NotKnown {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("{0}; or write client_id and client_secret there")]
    Bkey(#[from] BkeyError),
    #[error("where BKey is by its own tools: {0}; or write it there")]
    Url(UrlError),
}

/// `written` is the server's URL, if bursar.toml has one.
pub(super) fn known(written: Option<&Issuer>, client: &Client, home: &Home) -> Result<Known, NotKnown> {
    let read = |source: &SecretSource| source.read(home.root());
    let (id, secret, told, approver) = match client {
        Client::Named { id, secret } => {
            let id = match id {
                ClientId::Text(id) => id.clone(),
                ClientId::Kept(source) => read(source)?.expose_secret().to_owned(),
            };
            (id, Secret::new(read(secret)?.expose_secret()), None, None)
        }
        Client::Bkey { profile } => {
            let file = match std::env::var_os("HOME") {
                Some(home) => ProfilesFile::read(&PathBuf::from(home).join(".bkey/profiles.json"))?,
                None => None,
            };
            let agent = BkeyAgent::find(|name| std::env::var(name).ok(), profile.as_deref(), file.as_ref())?;
            (
                agent.client_id,
                agent.client_secret,
                Some(agent.api_url),
                agent.approver,
            )
        }
    };
    let issuer = match written {
        Some(issuer) => issuer.clone(),
        None => {
            let url = told.unwrap_or_else(|| BKEY.to_owned());
            Issuer::parse(&url, PlainHttp::ToThisMachine).map_err(NotKnown::Url)?
        }
    };
    Ok(Known {
        issuer,
        id,
        secret,
        approver,
    })
}
