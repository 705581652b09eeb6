//! `bursar backup`: takes no lock, so it works while a server is writing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::files::{self, Unfinished};
use super::manifest::{self, Manifest};
use super::{BackupError, io_at, restore};
use crate::config::operator::WalletKey;
use crate::config::{Config, SecretSource};
use bursar_home::{self as home, Home, Readers};
use bursar_ledger::follow::{Segment, follow};
use bursar_ledger::format;
use bursar_ledger::text::Digest;

/// Whether the copy includes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKeys {
    LeftOut,
    Included,
}

/// Copies the directory to `target`, which must be absent or empty. `progress` receives the number of bytes copied so
/// far.
pub fn backup(
    home: &Home,
    target: &Path,
    keys: CopyKeys,
    now: Timestamp,
    progress: &mut dyn FnMut(u64),
) -> Result<Manifest, BackupError> {
    let format = format::check(home.root())?;
    let copy = Unfinished::begin(target)?;
    let mut copying = Copying {
        home,
        into: copy.path(),
        files: BTreeMap::new(),
        left_out: Vec::new(),
        bytes: 0,
        progress,
    };
    copying.settings(keys)?;
    copying.beside_the_journal()?;
    let end = copying.journal()?;
    // Disclosures are written before their entries, so they are complete for the entries that were copied.
    copying.disclosures()?;
    let manifest = Manifest {
        format,
        bursar: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: now,
        entries: end.next_seq,
        tip: end.tip,
        keys: keys == CopyKeys::Included,
        left_out: copying.left_out,
        files: copying.files,
    };
    let mut text = serde_json::to_vec_pretty(&manifest).map_err(|error| BackupError::Manifest(error.to_string()))?;
    text.push(b'\n');
    home::write_new(&copy.path().join(manifest::NAME), &text, Readers::Owner)?;
    copy.finish()?;
    Ok(manifest)
}

struct Copying<'a> {
    home: &'a Home,
    into: &'a Path,
    files: BTreeMap<String, Digest>,
    left_out: Vec<String>,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Copying<'_> {
    fn settings(&mut self, keys: CopyKeys) -> Result<(), BackupError> {
        for name in [
            "bursar.toml",
            "limits.toml",
            "agents.toml",
            "ca.pem",
            "bundle.pem",
            "format",
            // A copy of a restored directory is just as incomplete.
            restore::MARKER,
        ] {
            self.file_if_there(name)?;
        }
        let mut named = vec![Named::key(self.home.ca_key()), Named::key(self.home.log_key())];
        named.push(Named::key(self.home.wallet_key()));
        match Config::load(self.home.root()) {
            Ok(config) => named.extend(named_by(&config, self.home.root())),
            Err(_) => self
                .left_out
                .push("the files that bursar.toml names (it has errors)".to_owned()),
        }
        for Named { path, is_key } in named {
            self.named_file(&path, is_key && keys == CopyKeys::LeftOut)?;
        }
        Ok(())
    }

    fn named_file(&mut self, path: &Path, is_left_out: bool) -> Result<(), BackupError> {
        let inside = path
            .strip_prefix(self.home.root())
            .ok()
            .filter(|inside| inside.components().all(|part| matches!(part, Component::Normal(_))));
        let Some(name) = inside.and_then(Path::to_str) else {
            self.leave_out(path.display().to_string());
            return Ok(());
        };
        if self.files.contains_key(name) || !path.is_file() {
            return Ok(());
        }
        if is_left_out {
            self.leave_out(name.to_owned());
            return Ok(());
        }
        self.file_if_there(name)
    }

    fn leave_out(&mut self, what: String) {
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    /// Checkpoints, and the files of retention. Copied before the segments: no checkpoint may cover entries that are
    /// missing.
    fn beside_the_journal(&mut self) -> Result<(), BackupError> {
        let audit = self.home.audit();
        for name in files::names(&audit).map_err(io_at("list", &audit))? {
            if !name.starts_with("seg-") && !name.ends_with(".tmp") {
                self.file_if_there(&format!("audit/{name}"))?;
            }
        }
        Ok(())
    }

    fn journal(&mut self) -> Result<bursar_ledger::scan::Chain, BackupError> {
        home::create_folder(&self.into.join("audit"))?;
        let audit = self.home.audit();
        let end = follow(&audit, &mut |Segment { path, lines }| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.put(&format!("audit/{name}"), lines)
        })?;
        Ok(end)
    }

    fn disclosures(&mut self) -> Result<(), BackupError> {
        home::create_folder(&self.into.join("private"))?;
        let private = self.home.private();
        for name in files::names(&private).map_err(io_at("list", &private))? {
            self.file_if_there(&format!("private/{name}"))?;
        }
        // Approval questions and answers are evidence for as long as the payment is in the ledger.
        let approvals = self.home.approvals();
        if approvals.is_dir() {
            for name in files::names(&approvals).map_err(io_at("list", &approvals))? {
                self.file_if_there(&format!("private/approvals/{name}"))?;
            }
        }
        // Bearer secrets: anyone who has them and a seller's key can cash them.
        for (folder, name) in [
            (self.home.credentials(), "private/credentials"),
            (self.home.tokens(), "private/tokens"),
        ] {
            if folder.exists() {
                self.leave_out(name.to_owned());
            }
        }
        Ok(())
    }

    fn file_if_there(&mut self, name: &str) -> Result<(), BackupError> {
        let path = self.home.root().join(name);
        match File::open(&path) {
            Ok(file) => self.put(name, file).map_err(io_at("copy", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_at("read", &path)(error)),
        }
    }

    fn put(&mut self, name: &str, from: impl io::Read) -> io::Result<()> {
        let to = self.into.join(name);
        if let Some(folder) = to.parent()
            && !folder.is_dir()
        {
            home::create_folder(folder).map_err(io::Error::other)?;
        }
        let (sha256, length) = files::copy(from, &to)?;
        self.files.insert(name.to_owned(), sha256);
        self.bytes += length;
        (self.progress)(self.bytes);
        Ok(())
    }
}

/// A file that the data directory needs but that may be stored anywhere.
struct Named {
    path: PathBuf,
    is_key: bool,
}

impl Named {
    fn key(path: PathBuf) -> Self {
        Self { path, is_key: true }
    }

    fn public(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_key: false,
        }
    }
}

fn named_by(config: &Config, root: &Path) -> Vec<Named> {
    let mut named: Vec<Named> = config
        .upstream
        .extra_ca
        .iter()
        .map(|path| Named::public(path))
        .collect();
    named.push(Named::public(config.limits.path()));
    if let Some(tls) = &config.proxy.tls {
        named.extend([Named::public(&tls.cert), Named::key(tls.key.clone())]);
    }
    if let Some(WalletKey::Keystore { path, .. }) = &config.wallet {
        named.push(Named::key(path.clone()));
    }
    for source in config.secrets() {
        if let SecretSource::File(path) = source {
            named.push(Named::key(root.join(path)));
        }
    }
    named
}

/// Whether `target` is inside the directory being copied: such a copy would be lost together with it.
pub fn is_inside(home: &Home, target: &Path) -> bool {
    let resolved = |path: &Path| fs::canonicalize(path).ok();
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = resolved(parent.unwrap_or(Path::new(".")));
    parent
        .zip(resolved(home.root()))
        .is_some_and(|(parent, root)| parent.starts_with(root))
}
