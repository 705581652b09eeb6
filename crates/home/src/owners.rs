//! Whose files are believed (R79): what decides about money belongs to bursar's uid or root, and nobody else can change
//! it. A secret can moreover be read by nobody else.
//!
//! Symbolic links are not followed, because a user who can make one chooses the file. The exception are volumes as Kubernetes
//! mounts them: `limits.toml` is a link to `..data/limits.toml`, and `..data` a link to the folder of the current version.
//! There the mount is read-only and everything on the way belongs to root, so that only root can have made the links.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

use super::{HomeError, failed, spare};

const ROOT: u32 = 0;
/// Links on the way to one file; as many as the kernel follows.
const MOST_LINKS: usize = 40;

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const GROUP_OR_OTHERS_ENTER: u32 = 0o011;

/// Who may own a file that decides about money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    own: u32,
    also: Option<u32>,
}

impl Owners {
    /// Root, and the uid that bursar runs as.
    pub fn ours() -> Self {
        Self {
            own: geteuid().as_raw(),
            also: None,
        }
    }

    /// For files in the data directory. Commands that root runs on the directory of another uid accept that uid, as the
    /// server that runs under it does; a server that root starts there refuses it ([`Home::require_owned`]).
    ///
    /// [`Home::require_owned`]: super::Home::require_owned
    pub fn of_data(dir: &Path) -> Self {
        let ours = Self::ours();
        match fs::metadata(dir) {
            Ok(about) if ours.own == ROOT => ours.and(Some(about.uid())),
            _ => ours,
        }
    }

    /// And this uid, which the operator has named.
    pub const fn and(self, also: Option<u32>) -> Self {
        Self { also, ..self }
    }

    fn include(self, uid: u32) -> bool {
        uid == ROOT || uid == self.own || self.also == Some(uid)
    }

    fn shown(self) -> String {
        let mut uids = vec![ROOT];
        uids.extend([Some(self.own), self.also].into_iter().flatten());
        uids.dedup();
        let uids: Vec<String> = uids.iter().map(u32::to_string).collect();
        match uids.len() {
            1 => format!("uid {}", uids[0]),
            _ => format!("one of the uids {}", uids.join(", ")),
        }
    }
}

/// Opens a file that decides about money, after checking it and its directory.
pub fn open_deciding(path: &Path, owners: Owners) -> Result<File, HomeError> {
    let path = &resolved(path)?;
    check_folder(parent(path), owners)?;
    let (file, about) = open_itself(path)?;
    check(path, &about, owners)?;
    Ok(file)
}

/// Opens a secret: only its owner can read it, or it belongs to root and a group of ours can read it.
pub fn open_secret(path: &Path) -> Result<File, HomeError> {
    let path = &resolved(path)?;
    let (file, about) = open_itself(path)?;
    // Files of root are accepted: root can read and replace ours anyway.
    if !Owners::ours().include(about.uid()) {
        return Err(foreign(path, &about, Owners::ours()));
    }
    // Only root can have chosen the group of its file.
    let allowed = match about.uid() == ROOT && is_our_group(about.gid()) {
        true => 0o740,
        false => 0o700,
    };
    match about.mode() & 0o777 & !allowed {
        0 => Ok(file),
        _ => Err(HomeError::Exposed {
            path: path.clone(),
            owner: about.uid(),
            mode: about.mode() & 0o7777,
        }),
    }
}

/// Opens, or creates with mode 0600, a file of secrets that bursar alone writes: it belongs to this uid, nobody else can
/// open it, and it is not a link.
pub fn open_private(path: &Path) -> Result<File, HomeError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(flags.bits().cast_signed());
    let file = spare::opening(|| options.open(path)).map_err(|source| match source.raw_os_error() {
        // A device or a pipe, for instance.
        Some(code) if code == Errno::NXIO.raw_os_error() => HomeError::NotAFile { path: path.into() },
        _ => failed("open", path, source),
    })?;
    let about = file.metadata().map_err(|source| failed("examine", path, source))?;
    if !about.is_file() {
        return Err(HomeError::NotAFile { path: path.into() });
    }
    let owners = Owners::ours();
    if about.uid() != owners.own {
        return Err(foreign(path, &about, owners));
    }
    match about.mode() & 0o077 {
        0 => Ok(file),
        _ => Err(HomeError::Exposed {
            path: path.into(),
            owner: about.uid(),
            mode: about.mode() & 0o7777,
        }),
    }
}

/// Opens one of the credentials that systemd has put into `folder` for this service. systemd gives access by an access
/// control list where it can, whose mask is shown as the rights of the group.
pub fn open_credential(folder: &Path, name: &str) -> Result<File, HomeError> {
    let path = folder.join(name);
    check_folder(folder, Owners::ours())?;
    let (file, about) = open_itself(&path)?;
    check(&path, &about, Owners::ours())?;
    match about.mode() & 0o007 {
        0 => Ok(file),
        _ => Err(HomeError::Exposed {
            path,
            owner: about.uid(),
            mode: about.mode() & 0o7777,
        }),
    }
}

/// Checks a directory, and everything in it that other users could reach.
pub(crate) fn check_tree(path: &Path, owners: Owners) -> Result<(), HomeError> {
    let about = fs::metadata(path).map_err(|source| failed("examine", path, source))?;
    if !about.is_dir() {
        return check_entry(path, owners);
    }
    check_folder(path, owners)?;
    // A user who cannot enter it reaches nothing in it.
    if about.mode() & GROUP_OR_OTHERS_ENTER == 0 {
        return Ok(());
    }
    let listed = fs::read_dir(path).map_err(|source| failed("list", path, source))?;
    for entry in listed {
        let entry = entry.map_err(|source| failed("list", path, source))?;
        match check_tree(&entry.path(), owners) {
            // It was removed meanwhile, as temporary files are.
            Err(HomeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            checked => checked?,
        }
    }
    Ok(())
}

/// A file, a socket, or a link to one.
fn check_entry(path: &Path, owners: Owners) -> Result<(), HomeError> {
    let path = &resolved(path)?;
    let about = fs::symlink_metadata(path).map_err(|source| failed("examine", path, source))?;
    check(path, &about, owners)
}

fn check(path: &Path, about: &Metadata, owners: Owners) -> Result<(), HomeError> {
    if !owners.include(about.uid()) {
        return Err(foreign(path, about, owners));
    }
    match about.mode() & GROUP_OR_OTHERS_WRITE {
        0 => Ok(()),
        _ => Err(HomeError::Writable {
            path: path.into(),
            owner: about.uid(),
            mode: about.mode() & 0o7777,
        }),
    }
}

pub(crate) fn check_folder(path: &Path, owners: Owners) -> Result<(), HomeError> {
    let about = fs::metadata(path).map_err(|source| failed("examine", path, source))?;
    if about.uid() == ROOT && is_read_only(path)? {
        return Ok(());
    }
    check(path, &about, owners)
}

fn foreign(path: &Path, about: &Metadata, owners: Owners) -> HomeError {
    HomeError::ForeignOwner {
        path: path.into(),
        owner: about.uid(),
        mode: about.mode() & 0o7777,
        allowed: owners.shown(),
        ours: geteuid().as_raw(),
    }
}

fn is_our_group(gid: u32) -> bool {
    getegid().as_raw() == gid || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

fn is_read_only(path: &Path) -> Result<bool, HomeError> {
    let mount = statvfs(path).map_err(|error| failed("examine", path, error.into()))?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Opens exactly this file, and asks the open file about itself, so that what is checked is what is read.
fn open_itself(path: &Path) -> Result<(File, Metadata), HomeError> {
    // A pipe in its place must not make the start wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = spare::opening(|| options.open(path)).map_err(|source| failed("open", path, source))?;
    let about = file.metadata().map_err(|source| failed("examine", path, source))?;
    match about.is_file() {
        true => Ok((file, about)),
        false => Err(HomeError::NotAFile { path: path.into() }),
    }
}

/// The file itself if `path` is not a link; else the file at the end of links that only root can have made.
fn resolved(path: &Path) -> Result<PathBuf, HomeError> {
    let about = fs::symlink_metadata(path).map_err(|source| failed("open", path, source))?;
    let (true, Some(name)) = (about.is_symlink(), path.file_name()) else {
        return Ok(path.to_owned());
    };
    let refused = |at: &Path, why: &'static str| HomeError::Linked {
        path: path.into(),
        at: at.into(),
        why,
    };
    let folder = parent(path);
    let mut folder = fs::canonicalize(folder).map_err(|source| failed("examine", folder, source))?;
    let (mut rest, mut links) = (VecDeque::from([name.to_owned()]), 0);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            folder.pop();
            continue;
        }
        let about = fs::symlink_metadata(&folder).map_err(|source| failed("examine", &folder, source))?;
        if about.uid() != ROOT {
            return Err(refused(&folder, "does not belong to root"));
        }
        let next = folder.join(&name);
        let about = fs::symlink_metadata(&next).map_err(|source| failed("open", &next, source))?;
        if about.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(refused(&next, "leads to itself"));
            }
            if about.uid() != ROOT {
                return Err(refused(&next, "does not belong to root"));
            }
            if !is_read_only(&folder)? {
                return Err(refused(&folder, "is not on a read-only mount"));
            }
            let target = fs::read_link(&next).map_err(|source| failed("read", &next, source))?;
            if target.is_absolute() {
                folder = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
        } else {
            folder = next;
        }
    }
    Ok(folder)
}

/// The parts of a link's target that lead on.
fn names(target: &Path) -> Vec<OsString> {
    let leads_on = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    target.components().filter_map(leads_on).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const NOBODY: u32 = 65_534;

    fn file_in(folder: &Path, mode: u32) -> PathBuf {
        let path = folder.join("limits.toml");
        fs::write(&path, "text").unwrap();
        set_mode(&path, mode);
        path
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Only root can give a file away; elsewhere there is nothing to test.
    fn given_to(path: &Path, uid: u32) -> bool {
        chown(path, Some(uid), None).is_ok()
    }

    #[test]
    fn what_others_can_write_is_refused_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o644, 0o440] {
            open_deciding(&file_in(folder.path(), mode), Owners::ours()).unwrap();
        }
        for mode in [0o660, 0o622, 0o606, 0o666, 0o777] {
            let path = file_in(folder.path(), mode);
            let said = open_deciding(&path, Owners::ours()).unwrap_err().to_string();
            let wanted = format!("(owner uid {}, mode {mode:04o})", geteuid().as_raw());
            assert!(said.contains(&wanted), "{said}");
            assert!(said.contains(&format!("chmod go-w {}", path.display())), "{said}");
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_in(folder.path(), 0o600);
        for mode in [0o770, 0o707, 0o777, 0o1777] {
            set_mode(folder.path(), mode);
            let said = open_deciding(&path, Owners::ours()).unwrap_err().to_string();
            assert!(
                said.contains(&format!("chmod go-w {}", folder.path().display())),
                "{said}"
            );
        }
        set_mode(folder.path(), 0o755);
        open_deciding(&path, Owners::ours()).unwrap();
    }

    #[test]
    fn a_foreign_owner_is_refused_unless_the_operator_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_in(folder.path(), 0o644);
        if !given_to(&path, NOBODY) {
            return;
        }
        let said = open_deciding(&path, Owners::ours()).unwrap_err().to_string();
        assert!(said.contains("belongs to uid 65534 (mode 0644)"), "{said}");
        assert!(said.contains(&format!("chown 0 {}", path.display())), "{said}");
        let named = Owners::ours().and(Some(NOBODY));
        open_deciding(&path, named).unwrap();
        // Its directory may be that uid's too, and nobody else's.
        assert!(given_to(folder.path(), NOBODY));
        open_deciding(&path, named).unwrap();
        assert!(given_to(folder.path(), NOBODY - 1));
        assert!(matches!(
            open_deciding(&path, named),
            Err(HomeError::ForeignOwner { owner, .. }) if owner == NOBODY - 1
        ));
    }

    #[test]
    fn links_on_a_writable_mount_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_in(folder.path(), 0o600);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        for opened in [open_deciding(&link, Owners::ours()), open_secret(&link)] {
            let error = opened.unwrap_err();
            assert!(matches!(error, HomeError::Linked { .. }), "{error}");
            assert!(error.to_string().contains("is a symbolic link"), "{error}");
        }
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        symlink(&one, &other).unwrap();
        symlink(&other, &one).unwrap();
        assert!(open_secret(&one).is_err());
    }

    #[test]
    fn a_pipe_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(open_secret(&path), Err(HomeError::NotAFile { .. })));
    }

    #[test]
    fn a_secret_of_root_may_be_read_by_a_group_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_in(folder.path(), 0o440);
        if chown(&path, Some(ROOT), Some(getegid().as_raw())).is_err() {
            return;
        }
        set_mode(&path, 0o440);
        open_secret(&path).unwrap();
        for mode in [0o444, 0o460, 0o442, 0o640 | 0o020] {
            set_mode(&path, mode);
            assert!(matches!(open_secret(&path), Err(HomeError::Exposed { .. })), "{mode:o}");
        }
        set_mode(&path, 0o440);
        chown(&path, None, Some(4_242)).unwrap();
        assert!(
            matches!(open_secret(&path), Err(HomeError::Exposed { .. })),
            "a foreign group"
        );
    }

    #[test]
    fn everything_that_others_can_reach_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = file_in(&inner, 0o666);
        set_mode(&inner, 0o700);
        check_tree(folder.path(), Owners::ours()).unwrap();
        for folder in [folder.path(), &inner] {
            set_mode(folder, 0o755);
        }
        assert!(matches!(
            check_tree(folder.path(), Owners::ours()),
            Err(HomeError::Writable { .. })
        ));
        set_mode(&path, 0o644);
        check_tree(folder.path(), Owners::ours()).unwrap();
    }
}
