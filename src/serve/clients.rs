//! Bursar's client registration at an identity server: from bursar.toml, or from BKey's own tools.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::config::approval::ciba::{Client, ClientId};
use crate::config::{SecretError, SecretSource, secret};
use bursar_home::Home;
use bursar_net::oauth::Secret;
use bursar_net::oauth::issuer::{Issuer, PlainHttp, UrlError};
use bursar_rails::bkey::{BkeyAgent, BkeyError, ProfilesFile};

const BKEY: &str = "https://api.bkey.id";

/// A client of an identity server.
pub(super) struct Known {
    pub issuer: Issuer,
    pub id: String,
    pub proof: Proof,
    /// The approver if none is configured.
    pub approver: Option<String>,
}

/// How the client authenticates.
pub(super) enum Proof {
    Secret(Secret),
    /// A PEM file, and the key id that the server knows.
    Key {
        pem: SecretString,
        id: Option<String>,
    },
}

/// Never quotes a secret.
#[derive(Debug, Error)]
pub enum NotKnown {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("{0}; or write client_id and client_secret there")]
    Bkey(#[from] BkeyError),
    #[error("BKey takes a secret, not a key: write client_id and client_secret there")]
    Key,
    #[error("the BKey URL from its own tools: {0}; or write the URL there")]
    Url(UrlError),
}

/// `written` is the server's URL, if bursar.toml has one.
pub(super) fn known(written: Option<&Issuer>, client: &Client, home: &Home) -> Result<Known, NotKnown> {
    let read = |source: &SecretSource| secret::read(source, home.root());
    let id_of = |id: &ClientId| match id {
        ClientId::Text(id) => Ok(id.clone()),
        ClientId::Kept(source) => read(source).map(|id| id.expose_secret().to_owned()),
    };
    let (id, proof, bkey_url, approver) = match client {
        Client::Named { id, secret } => {
            let secret = Secret::new(read(secret)?.expose_secret());
            (id_of(id)?, Proof::Secret(secret), None, None)
        }
        Client::Keyed { id, key, key_id } => {
            let (pem, key_id) = (read(key)?, key_id.clone());
            (id_of(id)?, Proof::Key { pem, id: key_id }, None, None)
        }
        Client::Bkey { profile } => {
            let file = match std::env::var_os("HOME") {
                Some(home) => ProfilesFile::read(&PathBuf::from(home).join(".bkey/profiles.json"))?,
                None => None,
            };
            let agent = BkeyAgent::find(|name| std::env::var(name).ok(), profile.as_deref(), file.as_ref())?;
            (
                agent.client_id,
                Proof::Secret(agent.client_secret),
                Some(agent.api_url),
                agent.approver,
            )
        }
    };
    let issuer = match written {
        Some(issuer) => issuer.clone(),
        None => {
            let url = bkey_url.unwrap_or_else(|| BKEY.to_owned());
            Issuer::parse(&url, PlainHttp::ToThisMachine).map_err(NotKnown::Url)?
        }
    };
    Ok(Known {
        issuer,
        id,
        proof,
        approver,
    })
}
