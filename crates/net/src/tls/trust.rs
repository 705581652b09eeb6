//! Whose certificates are accepted: the public roots, and what the operator's files name.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::verifier::Accepted;

/// Whose certificates are accepted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// `upstream.extra_ca`: PEM files, added to the public roots.
    pub extra_ca: Vec<PathBuf>,
    pub roots: PublicRoots,
}

/// Which public roots are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublicRoots {
    /// Mozilla's, built into the program, because a minimal container image has none.
    #[default]
    Bundled,
    /// The machine's own and no others, so that a root its operator removed stays removed.
    Machine,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("upstream.extra_ca: {path} cannot be used: {why}", path = path.display())]
    ExtraCa { path: PathBuf, why: String },
    #[error("ca: {path} cannot be used: {why}", path = path.display())]
    StoreCa { path: PathBuf, why: String },
    #[error("upstream.site.ca: {path} cannot be used: {why}", path = path.display())]
    SiteCa { path: PathBuf, why: String },
    #[error("upstream.site.client_cert: {path} cannot be used: {why}", path = path.display())]
    ClientCertificate { path: PathBuf, why: String },
    #[error("the system's root certificates cannot be read: {0}")]
    System(String),
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Only the certificates in a PEM file.
pub fn roots_in(path: &Path) -> Result<Accepted, TrustError> {
    only_in(path).map_err(|why| TrustError::StoreCa {
        path: path.to_owned(),
        why,
    })
}

pub(super) fn accepted_for_a_site(path: &Path) -> Result<Accepted, TrustError> {
    only_in(path)
        .map(Accepted::for_one_site)
        .map_err(|why| TrustError::SiteCa {
            path: path.to_owned(),
            why,
        })
}

fn only_in(path: &Path) -> Result<Accepted, String> {
    let mut accepted = Accepted::only(RootCertStore::empty());
    add_file(&mut accepted, path)?;
    Ok(accepted)
}

/// What `trust` accepts: the public roots, and what is in `extra_ca`.
pub fn roots(trust: &Trust) -> Result<Accepted, TrustError> {
    let mut roots = RootCertStore::empty();
    match trust.roots {
        PublicRoots::Bundled => {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
        PublicRoots::Machine => add_machine_roots(&mut roots)?,
    }
    let mut accepted = Accepted::only(roots);
    for path in &trust.extra_ca {
        add_file(&mut accepted, path).map_err(|why| TrustError::ExtraCa {
            path: path.clone(),
            why,
        })?;
    }
    Ok(accepted)
}

fn add_file(accepted: &mut Accepted, path: &Path) -> Result<(), String> {
    read_certificates(path)?
        .into_iter()
        .try_for_each(|certificate| accepted.add(certificate))
}

fn add_machine_roots(roots: &mut RootCertStore) -> Result<(), TrustError> {
    let found = rustls_native_certs::load_native_certs();
    // Single unreadable files are normal there; with no certificate at all, nothing would be trusted.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
    }
    let why = found
        .errors
        .first()
        .map_or("none were found".into(), ToString::to_string);
    Err(TrustError::System(why))
}

pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())?;
    match certificates.is_empty() {
        true => Err("it contains no PEM certificate".into()),
        false => Ok(certificates),
    }
}
