//! `[people]`: users of this machine who may ask the running server without being its user, and what for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bursar_config::diagnose::nearest;
use bursar_config::section::{Entry, Section};

/// The section, complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct People {
    pub socket: PathBuf,
    roles: BTreeMap<u32, Vec<Role>>,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// See and test the limits, see what was spent, and stop payments.
    Finance,
}

impl Role {
    const ALL: [Self; 1] = [Self::Finance];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Finance => "finance",
        }
    }
}

impl People {
    pub(crate) fn roles_of(&self, uid: u32) -> &[Role] {
        self.roles.get(&uid).map_or(&[], Vec::as_slice)
    }
}

pub(super) fn people(section: Section<'_>, dir: &Path) -> Option<People> {
    let mut socket = None;
    let mut roles = BTreeMap::new();
    let entries = section.named();
    for entry in &entries {
        if entry.key() == "socket" {
            socket = place(entry, dir);
            continue;
        }
        let Some(uid) = uid(entry) else {
            continue;
        };
        let named = entry.list("Remove the line, or list at least one role, such as [\"finance\"].");
        let named: Option<Vec<Role>> = named.and_then(|items| items.iter().map(role).collect());
        if let Some(named) = named {
            roles.insert(uid, named);
        }
    }
    let has_socket = entries.iter().any(|entry| entry.key() == "socket");
    if !has_socket && let Some(entry) = entries.first() {
        return entry.reject_key(
            "[people] names people, but no socket for them".to_owned(),
            "Add socket = \"/run/bursar/people.sock\".".to_owned(),
        );
    }
    if roles.is_empty()
        && entries.len() == 1
        && let Some(entry) = entries.first()
    {
        return entry.reject_key(
            "[people] has a socket, but names nobody who may use it".to_owned(),
            "Add a line for each user, such as \"uid:1000\" = [\"finance\"].".to_owned(),
        );
    }
    Some(People { socket: socket?, roles })
}

/// People cannot enter the data directory, and a path with `..` hides which folders decide about it.
fn place(entry: &Entry<'_>, dir: &Path) -> Option<PathBuf> {
    let path = Path::new(entry.text()?);
    let is_plain = path
        .components()
        .all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
    if !path.is_absolute() || !is_plain || path.parent().is_none() {
        return entry.reject(
            format!("people.socket: {} is not an absolute path without `..`", path.display()),
            "Write a path outside the data directory, such as \"/run/bursar/people.sock\".".to_owned(),
        );
    }
    if path.starts_with(dir) {
        return entry.reject(
            format!(
                "people.socket: {} lies in the data directory, which only bursar's user can enter",
                path.display()
            ),
            "Write a path elsewhere, such as \"/run/bursar/people.sock\".".to_owned(),
        );
    }
    Some(path.to_owned())
}

/// `uid:1000`.
fn uid(entry: &Entry<'_>) -> Option<u32> {
    let key = entry.key();
    let digits = key
        .strip_prefix("uid:")
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let uid = digits.and_then(|digits| digits.parse().ok());
    uid.or_else(|| {
        let way_out = match key.contains(|c: char| c.is_ascii_digit() || c == ':') {
            true => "Write a user as \"uid:1000\"; `id -u NAME` prints the number.",
            false => "Known keys: socket, uid:1000.",
        };
        entry.reject_key(format!("[people] has no key `{key}`"), way_out.to_owned())
    })
}

fn role(item: &Entry<'_>) -> Option<Role> {
    let name = item.text()?;
    let role = Role::ALL.into_iter().find(|role| role.name() == name);
    role.or_else(|| {
        let meant = nearest(name, Role::ALL.iter().map(|role| role.name()));
        item.reject(
            format!("people: \"{name}\" is not a role"),
            match meant {
                Some(role) => format!("Did you mean \"{role}\"?"),
                None => "Write \"finance\": who has this role may see and test limits, see what was spent, and pause payments."
                    .to_owned(),
            },
        )
    })
}
