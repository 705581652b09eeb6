//! Two authorities, made anew for each run: one for the site, one for the floors and the peer. bursar makes its own.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::Fault;

/// The file of the site's root.
pub const SITE_CA: &str = "site-ca.pem";
/// The file of the root that floors and peer issue from.
pub const PROXY_CA: &str = "proxy-ca.pem";
const PROXY_KEY: &str = "proxy-ca.key";
const SITE_CHAIN: &str = "site.pem";
const SITE_KEY: &str = "site.key";

/// Writes all keys and certificates into `folder`. The site answers for `names`.
pub fn create(folder: &Path, names: &[&str]) -> Result<(), Fault> {
    let (site_ca, site_ca_pem) = authority("bench: the site")?;
    std::fs::write(folder.join(SITE_CA), site_ca_pem)?;
    let (proxy_ca, proxy_ca_pem) = authority("bench: floors and peer")?;
    std::fs::write(folder.join(PROXY_CA), proxy_ca_pem)?;
    std::fs::write(folder.join(PROXY_KEY), proxy_ca.key().serialize_pem())?;
    let key = leaf_key()?;
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let chain = leaf(names, &key, &site_ca)?;
    std::fs::write(folder.join(SITE_CHAIN), chain.pem())?;
    std::fs::write(folder.join(SITE_KEY), key.serialize_pem())?;
    Ok(())
}

/// What the site proves itself with.
pub fn site(folder: &Path) -> Result<CertifiedKey, Fault> {
    let chain = CertificateDer::from_pem_file(folder.join(SITE_CHAIN))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(SITE_KEY))?;
    let signer = provider().key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![chain], signer))
}

/// The authority of floors and peer.
pub fn proxy_issuer(folder: &Path) -> Result<Issuer<'static, KeyPair>, Fault> {
    let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join(PROXY_KEY))?)?;
    let certificate = std::fs::read_to_string(folder.join(PROXY_CA))?;
    Ok(Issuer::from_ca_cert_pem(&certificate, key)?)
}

pub fn leaf_key() -> Result<KeyPair, Fault> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

pub fn leaf(names: Vec<String>, key: &KeyPair, issuer: &Issuer<'_, KeyPair>) -> Result<rcgen::Certificate, Fault> {
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(key, issuer)?)
}

pub fn roots<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for file in files {
        roots.add(CertificateDer::from_pem_file(file)?)?;
    }
    Ok(roots)
}

/// For the proxies: what bursar has, so that all of them say the same in a handshake.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// For the two ends, agent and site: no post-quantum key exchange, as with OpenSSL 3.0. It is in no proxy's hand, and
/// costs so much that it would hide what a proxy costs.
pub fn classical() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

fn authority(name: &str) -> Result<(Issuer<'static, KeyPair>, String), Fault> {
    let key = leaf_key()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}
