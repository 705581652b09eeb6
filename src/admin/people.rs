//! The people's door: a second socket for users of this machine who are neither bursar nor root, such as finance. It
//! takes the questions of their role and nothing else; the kernel says who asks (R264).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::net::UnixListener;

use super::{Admin, Reply, approvals, limits, pause, spend};
use crate::config::people::{People, Role};

/// What of the operator's socket each role may ask.
const OF_FINANCE: [&str; 7] = [
    limits::SHOW,
    limits::TRY,
    limits::STANDING,
    spend::PATH,
    pause::PAUSE,
    pause::RESUME,
    pause::PAUSED,
];

const MODE: u32 = 0o660;

#[derive(Debug, Error)]
pub enum PeopleError {
    #[error(
        "[people] socket: cannot create {path}: {source}. Its folder must exist; systemd makes /run/bursar with \
         RuntimeDirectory=bursar",
        path = path.display()
    )]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "[people] socket: {folder} (owner uid {owner}, mode {mode:04o}) can be changed by other users, so one of them could \
         put another socket there and answer in bursar's place. It must belong to bursar's uid or root; then run: \
         chmod go-w {folder}",
        folder = folder.display()
    )]
    Folder { folder: PathBuf, owner: u32, mode: u32 },
    #[error(
        "[people] socket: {path} exists and is not a socket, so it was not replaced. Move it away, or name another path",
        path = path.display()
    )]
    NotASocket { path: PathBuf },
    #[error(
        "[people] socket: another process listens on {path}. Stop it, or name another path",
        path = path.display()
    )]
    InUse { path: PathBuf },
}

/// Creates the socket with mode 0660, in place of one that a killed server left behind.
pub(crate) fn bind_people(path: &Path) -> Result<UnixListener, PeopleError> {
    let create = |source| PeopleError::Create {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let ours = rustix::process::geteuid().as_raw();
    for folder in folder.ancestors() {
        let about = fs::metadata(folder).map_err(create)?;
        let (owner, mode) = (about.uid(), about.permissions().mode() & 0o7777);
        // In a folder such as /tmp nobody can move what belongs to others; a socket there could be anybody's.
        let is_shared = mode & 0o022 != 0 && (mode & 0o1000 == 0 || Some(folder) == path.parent());
        if (owner != ours && owner != 0) || is_shared {
            return Err(PeopleError::Folder {
                folder: folder.to_owned(),
                owner,
                mode,
            });
        }
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(create(error)),
        Ok(about) if !about.file_type().is_socket() => {
            return Err(PeopleError::NotASocket { path: path.to_owned() });
        }
        // Only a socket without a listener refuses; a full queue is one that listens.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(create)?,
            _ => return Err(PeopleError::InUse { path: path.to_owned() }),
        },
    }
    let listener = UnixListener::bind(path).map_err(create)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(create)?;
    Ok(listener)
}

pub(crate) async fn serve_people(admin: Arc<Admin>, listener: UnixListener, people: Arc<People>) {
    super::accept(admin, listener, super::Visitors::People(people)).await;
}

/// One request of somebody who is neither bursar nor root.
pub(super) async fn answer(
    admin: &Arc<Admin>,
    request: Request<Incoming>,
    uid: u32,
    people: &People,
) -> Response<Full<Bytes>> {
    let roles = people.roles_of(uid);
    if roles.is_empty() {
        return refused(format!(
            "uid {uid} has no role at this socket; in bursar.toml the operator can write \"uid:{uid}\" = [\"finance\"] under \
             [people], and restart `bursar serve`"
        ));
    }
    let path = request.uri().path();
    let may = |role: &Role| match role {
        Role::Finance => OF_FINANCE.contains(&path) || path == approvals::PENDING,
    };
    if request.method() != Method::POST || !roles.iter().any(may) {
        let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        return refused(format!(
            "uid {uid} ({}) may not do this: this socket takes limits show, limits try, limits check --wait, spend, pending, \
             pause and resume. Ask the operator",
            roles.join(", ")
        ));
    }
    match path {
        // A code is what approves.
        approvals::PENDING => approvals::list_without_codes(admin),
        _ => super::answer(admin, request, uid).await,
    }
}

fn refused(error: String) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(&Reply { error: Some(error) }).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}
