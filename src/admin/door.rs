//! The commands' side of the sockets: one request to the running server, and its answer.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{AdminError, CAP, Question, Reply};
use bursar_home::Home;

/// The socket by which a command reaches the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Door(PathBuf);

impl Door {
    /// The operator's, in the data directory.
    pub(crate) fn of(home: &Home) -> Self {
        Self(home.admin_socket())
    }

    /// The one that `[people]` opens.
    pub(crate) fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Sends a request to the running server.
pub(crate) async fn ask<Q: Question>(home: &Home, question: &Q) -> Result<(), AdminError> {
    let reply: Reply = post(&Door::of(home), Q::PATH, question, CAP).await?;
    reply.error.map_or(Ok(()), |error| Err(AdminError::Refused(error)))
}

/// One request to the running server, with a reply of at most `cap` bytes.
pub(super) async fn post<T: DeserializeOwned>(
    door: &Door,
    path: &'static str,
    question: &impl Serialize,
    cap: usize,
) -> Result<T, AdminError> {
    let transport = |error: &dyn std::fmt::Display| AdminError::Transport(error.to_string());
    let stream = match UnixStream::connect(&door.0).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(AdminError::NoServer);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(AdminError::NoAccess(door.0.display().to_string()));
        }
        Err(error) => return Err(transport(&error)),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| transport(&error))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(question).map_err(|error| transport(&error))?;
    let request = Request::post(path)
        .header(http::header::HOST, "bursar")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| transport(&error))?;
    let response = sender.send_request(request).await.map_err(|error| transport(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), cap)
        .collect()
        .await
        .map_err(|error| transport(&error))?
        .to_bytes();
    if status == http::StatusCode::FORBIDDEN
        && let Ok(Reply { error: Some(error) }) = serde_json::from_slice(&body)
    {
        return Err(AdminError::Refused(error));
    }
    serde_json::from_slice(&body).map_err(|error| transport(&error))
}
