//! The data directory D (R54): where it is, what it contains, and how its files are written and read.
//!
//! One uid owns everything in it: directories are 0700, secrets 0600. A secret that other users can read is refused
//! rather than used, because they may already have read it (threat 3.1).
//!
//! # Main types
//!
//! * [`Home`]: the path of D, with one method for every file and directory in it.
//! * [`write_atomic`], [`write_new`], [`write_unsynced`]: write a file so that a crash leaves the old content or the
//!   new one; fail if it exists; or write without waiting for the disk. [`Readers`] sets the mode.
//! * [`read_secret`]: reads a file only if nobody else can read it. [`open_private`]: opens one to change it in place.
//! * [`open_deciding`] and [`Home::require_owned`]: refuse what users other than [`Owners`] could have changed.
//! * [`spare`]: descriptors set aside for the ledger, evidence and the admin socket.
//! * [`HomeError`]: the failures, each with the path and what to do.
//!
//! # Where to start reading
//!
//! [`Home::locate`] decides which directory is used, [`Home::create`] sets it up.
//!
//! ```
//! use std::path::Path;
//!
//! use bursar_home::Home;
//!
//! // The flag wins over the environment, which is passed in as a function.
//! let home = Home::locate(Some(Path::new("/srv/bursar")), |_| Some("/elsewhere".into()))?;
//! assert_eq!(home.limits(), Path::new("/srv/bursar/limits.toml"));
//! # Ok::<(), bursar_home::HomeError>(())
//! ```
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod owners;
pub mod spare;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use bursar_core::clock;
pub use owners::{Owners, open_credential, open_deciding, open_private, open_secret};

/// The absolute path of D, with a method for every file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("no data directory: pass --dir D, or set BURSAR_DIR or HOME")]
    Nowhere,
    #[error("{root} contains no bursar.toml; create it with `bursar init --dir {root}`", root = root.display())]
    NotInitialised { root: PathBuf },
    #[error("{path} already exists and was not overwritten", path = path.display())]
    Exists { path: PathBuf },
    #[error(
        "{path} (owner uid {owner}, mode {mode:04o}) can be read by other users, so consider its secret exposed and \
         replace it; if you are sure that nobody has read it, run: chmod 600 {path}",
        path = path.display()
    )]
    Exposed { path: PathBuf, owner: u32, mode: u32 },
    #[error(
        "{path} belongs to uid {owner} (mode {mode:04o}), so that user decides what is paid; it must belong to \
         {allowed}. {next}",
        path = path.display(), next = own_it(path, *owner, *ours)
    )]
    ForeignOwner {
        path: PathBuf,
        owner: u32,
        mode: u32,
        /// The uids that may own it, in words.
        allowed: String,
        ours: u32,
    },
    #[error(
        "{path} (owner uid {owner}, mode {mode:04o}) can be changed by other users, so they decide what is paid. Check \
         its content, then run: chmod go-w {path}",
        path = path.display()
    )]
    Writable { path: PathBuf, owner: u32, mode: u32 },
    #[error(
        "{path} is a symbolic link and is not followed, because {at} {why}; put the file itself there, or name the file \
         itself in bursar.toml",
        path = path.display(), at = at.display()
    )]
    Linked {
        path: PathBuf,
        /// What another user than root could have changed.
        at: PathBuf,
        why: &'static str,
    },
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile { path: PathBuf },
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Who may read a file that bursar writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// 0600
    Owner,
    /// 0644: certificates, which agents under other uids must read
    Everyone,
}

impl Home {
    /// `--dir`, else `BURSAR_DIR`, else `$XDG_DATA_HOME/bursar`, else `~/.local/share/bursar`. Empty variables count as
    /// unset, and a relative `XDG_DATA_HOME` is ignored, as the XDG base directory specification asks.
    pub fn locate(flag: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = flag
            .map(Path::to_path_buf)
            .or_else(|| set("BURSAR_DIR"))
            .or_else(|| Some(set("XDG_DATA_HOME").filter(|path| path.is_absolute())?.join("bursar")))
            .or_else(|| Some(set("HOME")?.join(".local/share/bursar")))
            .ok_or(HomeError::Nowhere)?;
        Self::at(&root)
    }

    /// Makes a relative path absolute, because `bundle.pem` is passed to child processes that may change their
    /// directory.
    pub fn at(root: &Path) -> Result<Self, HomeError> {
        let root = std::path::absolute(root).map_err(|source| failed("resolve", root, source))?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn config(&self) -> PathBuf {
        self.root.join("bursar.toml")
    }
    pub fn limits(&self) -> PathBuf {
        self.root.join("limits.toml")
    }
    pub fn agents(&self) -> PathBuf {
        self.root.join("agents.toml")
    }
    /// Locked while `agents.toml` is rewritten, never while it is read.
    pub fn agents_lock(&self) -> PathBuf {
        self.run().join("agents.lock")
    }
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca.pem")
    }
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca.key")
    }
    /// The public roots and our CA in one file, for tools whose trust variable replaces their built-in roots.
    pub fn bundle(&self) -> PathBuf {
        self.root.join("bundle.pem")
    }
    /// What makes a Node without support for proxy variables use the proxy; Node loads it by `NODE_OPTIONS`.
    pub fn node_proxy(&self) -> PathBuf {
        self.root.join("node-proxy.cjs")
    }
    /// The key that `init --wallet` creates; bursar.toml may name another one.
    pub fn wallet_key(&self) -> PathBuf {
        self.root.join("wallet.key")
    }
    pub fn log_key(&self) -> PathBuf {
        self.root.join("log.key")
    }
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }
    pub fn private(&self) -> PathBuf {
        self.root.join("private")
    }
    /// What it takes to repeat payments whose outcome is unknown (R7).
    pub fn credentials(&self) -> PathBuf {
        self.private().join("credentials")
    }
    /// Tokens that Stripe issued, kept until nothing more can be asked about them.
    pub fn tokens(&self) -> PathBuf {
        self.private().join("tokens")
    }
    /// The questions that approvers were asked about payments, and their answers (R46).
    pub fn approvals(&self) -> PathBuf {
        self.private().join("approvals")
    }
    /// The wallet that BKey last reported. A cache: it can be lost as long as BKey can be reached.
    pub fn bkey(&self) -> PathBuf {
        self.private().join("bkey-wallet.json")
    }

    /// How far the chains have been searched for transfers from the wallet that bursar did not make. Can be lost.
    pub fn reconciled(&self) -> PathBuf {
        self.private().join("reconciled.json")
    }

    /// Which node of which shared ledger this directory belongs to.
    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }
    /// Certificate and key of the sandbox seller that belongs to this directory, if `init --sandbox` made one.
    pub fn sandbox_identity(&self) -> PathBuf {
        self.root.join("sandbox.pem")
    }

    /// The certificate by which buyers trust that seller.
    pub fn sandbox_ca(&self) -> PathBuf {
        self.root.join("sandbox-ca.pem")
    }

    /// The key of the sandbox Stripe.
    pub fn sandbox_stripe_key(&self) -> PathBuf {
        self.root.join("sandbox-stripe.key")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    /// The address that `serve` actually listens on (R56).
    pub fn listen(&self) -> PathBuf {
        self.run().join("listen")
    }
    pub fn admin_socket(&self) -> PathBuf {
        self.run().join("admin.sock")
    }
    /// Locked by the one process that writes the journal.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Creates D and its directories, 0700 each; existing ones are left as they are.
    pub fn create(&self) -> Result<(), HomeError> {
        for folder in [self.root.clone(), self.audit(), self.index(), self.private()] {
            create_folder(&folder)?;
        }
        self.create_run()
    }

    /// Recreates `run` if it is missing: its files belong to running processes only, so backups and clean-up jobs may
    /// omit it.
    pub fn create_run(&self) -> Result<(), HomeError> {
        create_folder(&self.run())
    }

    pub fn require_initialised(&self) -> Result<(), HomeError> {
        if self.config().is_file() {
            return Ok(());
        }
        Err(HomeError::NotInitialised {
            root: self.root.clone(),
        })
    }
}

impl Home {
    /// Checks that nobody but root and the uid that runs bursar can change what decides about money here (R79). What is
    /// missing is not checked.
    pub fn require_owned(&self) -> Result<(), HomeError> {
        let owners = Owners::ours();
        owners::check_folder(&self.root, owners)?;
        let deciding = [
            self.config(),
            self.limits(),
            self.agents(),
            self.ca_certificate(),
            self.ca_key(),
            self.bundle(),
            self.node_proxy(),
            self.wallet_key(),
            self.log_key(),
            self.node(),
            self.root.join("format"),
            self.lock(),
            self.audit(),
            self.index(),
            self.private(),
            self.run(),
        ];
        for path in deciding.iter().filter(|path| path.symlink_metadata().is_ok()) {
            owners::check_tree(path, owners)?;
        }
        Ok(())
    }

    /// The same for a file that bursar.toml names, such as a root that sellers are verified by, if it lies here.
    pub fn require_owned_if_here(&self, path: &Path) -> Result<(), HomeError> {
        match path.starts_with(&self.root) && path.symlink_metadata().is_ok() {
            true => owners::check_tree(path, Owners::ours()),
            false => Ok(()),
        }
    }
}

/// Replaces `path` with `content` so that a reader, or a crash at any step, sees the old file or the new one, whole.
pub fn write_atomic(path: &Path, content: &[u8], readers: Readers) -> Result<(), HomeError> {
    let draft = Draft::write(path, content, readers)?;
    fs::rename(&draft.path, path).map_err(|source| failed("replace", path, source))?;
    sync_folder(path)
}

/// Writes a secret, 0600, without waiting for the disk: for files that may be lost or torn in a crash.
pub fn write_unsynced(path: &Path, content: &[u8]) -> Result<(), HomeError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    spare::opening(|| options.open(path)?.write_all(content)).map_err(|source| failed("write", path, source))
}

/// Creates one directory, 0700, unless it exists.
pub fn create_folder(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("create", path, source))
}

/// Like [`write_atomic`], but an existing file is an error: `init` overwrites nothing.
pub fn write_new(path: &Path, content: &[u8], readers: Readers) -> Result<(), HomeError> {
    let draft = Draft::write(path, content, readers)?;
    // Unlike a rename, a hard link fails if the name is taken.
    fs::hard_link(&draft.path, path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => HomeError::Exists { path: path.into() },
        _ => failed("create", path, source),
    })?;
    drop(draft);
    sync_folder(path)
}

/// Reads a file that only its owner may read. A symbolic link in its place is refused (threat 3.11).
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, HomeError> {
    let mut file = owners::open_secret(path)?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)
        .map_err(|source| failed("read", path, source))?;
    Ok(text)
}

/// A complete temporary file next to its destination; removed on drop unless it was renamed.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(destination: &Path, content: &[u8], readers: Readers) -> Result<Self, HomeError> {
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::Everyone => 0o644,
        };
        let nonce = clock::random::<8>().map_err(|error| failed("write", destination, error.into()))?;
        let mut name = destination.file_name().unwrap_or(OsStr::new("file")).to_os_string();
        name.push(format!(".{:016x}.tmp", u64::from_be_bytes(nonce)));
        let draft = Self {
            path: destination.with_file_name(name),
        };
        let written = spare::opening(|| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(mode);
            let mut file = options.open(&draft.path)?;
            // The umask may have cleared some bits.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(content)?;
            file.sync_all()
        });
        written.map_err(|source| failed("write", destination, source))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is already gone after a rename.
        let _ = fs::remove_file(&self.path);
    }
}

/// Without this, a crash may lose the new name even though the file's content is on disk.
fn sync_folder(path: &Path) -> Result<(), HomeError> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    spare::opening(|| File::open(folder)?.sync_all()).map_err(|source| failed("sync", folder, source))
}

/// What to do about a file of another user. Root must not take the files of a server that runs under that user.
fn own_it(path: &Path, owner: u32, ours: u32) -> String {
    let chown = format!("chown {ours} {}", path.display());
    match ours {
        0 => format!(
            "If bursar runs as that user, run this command as that user too: sudo -u '#{owner}' bursar ...; if it runs as \
             root, check the file's content, then run: {chown}"
        ),
        _ => format!("Check its content, then run: {chown}"),
    }
}

pub fn failed(action: &'static str, path: &Path, source: io::Error) -> HomeError {
    HomeError::Io {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn locate(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<PathBuf, HomeError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Home::locate(flag.map(Path::new), |name| variables.get(name).map(OsString::from)).map(|home| home.root)
    }

    #[test]
    fn flag_then_variable_then_xdg_then_home() {
        let all = [("BURSAR_DIR", "/b"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(locate(Some("/f"), &all).unwrap(), Path::new("/f"));
        assert_eq!(locate(None, &all).unwrap(), Path::new("/b"));
        assert_eq!(locate(None, &all[1..]).unwrap(), Path::new("/x/bursar"));
        assert_eq!(locate(None, &all[2..]).unwrap(), Path::new("/h/.local/share/bursar"));
        let odd = [("BURSAR_DIR", ""), ("XDG_DATA_HOME", "relative"), ("HOME", "/h")];
        assert_eq!(locate(None, &odd).unwrap(), Path::new("/h/.local/share/bursar"));
        assert!(matches!(locate(None, &[]), Err(HomeError::Nowhere)));
    }

    #[test]
    fn created_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(&folder.path().join("a/d")).unwrap();
        home.create().unwrap();
        home.create().unwrap();
        for path in [
            home.root().to_path_buf(),
            home.audit(),
            home.index(),
            home.private(),
            home.run(),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn an_empty_directory_names_the_command_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let said = home.require_initialised().unwrap_err().to_string();
        assert!(
            said.contains(&format!("bursar init --dir {}", folder.path().display())),
            "{said}"
        );
        write_new(&home.config(), b"", Readers::Owner).unwrap();
        home.require_initialised().unwrap();
    }

    #[test]
    fn writing_replaces_or_refuses_and_leaves_no_drafts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"one", Readers::Owner).unwrap();
        assert!(matches!(
            write_new(&path, b"two", Readers::Owner),
            Err(HomeError::Exists { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        write_atomic(&path, b"three", Readers::Everyone).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn exposed_and_linked_secrets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.key");
        write_new(&path, b"secret", Readers::Owner).unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "secret");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_secret(&link), Err(HomeError::Linked { .. })));
        assert!(matches!(read_secret(folder.path()), Err(HomeError::NotAFile { .. })));

        for mode in [0o604, 0o644, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let said = read_secret(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("chmod 600 {}", path.display())), "{said}");
        }
    }
}
