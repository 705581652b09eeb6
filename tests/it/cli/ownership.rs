//! Whose files are believed (R79): what decides about money belongs to bursar's uid or root, and nobody else can write to it.
//! What only root can do is tested as root.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DONE, USAGE, done, fails, stderr};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, LIMITS, WALLET_KEY, bin, eventually, setup};
use crate::support::buyer::skip;
use crate::support::seller::shop;

const FINANCE: u32 = 4_242;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs the command that a message ends with.
fn mend(said: &str) {
    let (_, command) = said.trim_end().rsplit_once("run: ").unwrap_or_else(|| panic!("{said}"));
    let words: Vec<&str> = command.split(' ').collect();
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A server starts, and stops.
fn starts(home: Home) -> Home {
    let mut bursar = home.serve();
    assert_eq!(bursar.stop(), DONE);
    bursar.kill()
}

#[test]
fn a_server_does_not_start_on_what_others_can_change_and_names_the_command_that_mends_it() {
    let mut home = setup().upstream("extra_ca = \"roots.pem\"\n").home();
    std::fs::copy(home.path().join("ca.pem"), home.path().join("roots.pem")).unwrap();
    for (name, mode) in [
        ("", 0o777),
        ("", 0o770),
        ("limits.toml", 0o666),
        ("limits.toml", 0o664),
        ("bursar.toml", 0o666),
        ("agents.toml", 0o622),
        ("log.key", 0o620),
        ("roots.pem", 0o666),
        ("audit", 0o777),
        ("private", 0o1777),
    ] {
        let path = match name {
            "" => home.path().to_owned(),
            name => home.path().join(name),
        };
        set_mode(&path, mode);
        let shown = path.display().to_string();
        let said = fails(
            home.path(),
            &["serve"],
            USAGE,
            &[&shown, &format!("mode {mode:04o}"), "can be changed"],
        );
        mend(&said);
        home = starts(home);
    }
}

#[test]
fn a_server_does_not_start_on_what_belongs_to_another_user() {
    if !is_root() {
        return skip("root, to give files away");
    }
    let mut home = setup().home();
    for name in ["", "limits.toml", "bursar.toml", "agents.toml", "audit"] {
        let path = match name {
            "" => home.path().to_owned(),
            name => home.path().join(name),
        };
        chown(&path, Some(FINANCE), None).unwrap();
        let said = fails(
            home.path(),
            &["serve"],
            USAGE,
            &[&path.display().to_string(), "belongs to uid 4242 (mode 0"],
        );
        mend(&said);
        home = starts(home);
    }
}

/// Root may look at the directory of another uid, but a server under root does not run there.
#[test]
fn root_reads_the_directory_of_another_user_and_does_not_serve_it() {
    if !is_root() {
        return skip("root, to give files away");
    }
    let home = setup().home();
    let given = Command::new("chown")
        .args(["-R", "4242"])
        .arg(home.path())
        .status()
        .unwrap();
    assert!(given.success());
    done(home.path(), &["payments", "list"]);
    fails(home.path(), &["serve"], USAGE, &["belongs to uid 4242", "chown 0 "]);
}

#[test]
fn a_linked_key_or_limits_file_is_refused() {
    let other = tempfile::tempdir().unwrap();
    let key = other.path().join("key");
    std::fs::write(&key, WALLET_KEY).unwrap();
    set_mode(&key, 0o600);
    let home = setup().wallet("[wallet.evm]\nkey = \"file:wallet.key\"\n").home();
    let link = home.path().join("wallet.key");
    symlink(&key, &link).unwrap();
    let said = fails(
        home.path(),
        &["serve"],
        USAGE,
        &[&link.display().to_string(), "is a symbolic link"],
    );
    assert!(!said.contains("ac0974"), "{said}");
    std::fs::remove_file(&link).unwrap();
    std::fs::copy(&key, &link).unwrap();
    let home = starts(home);

    let (limits, moved) = (home.path().join("limits.toml"), other.path().join("limits.toml"));
    std::fs::rename(&limits, &moved).unwrap();
    symlink(&moved, &limits).unwrap();
    fails(
        home.path(),
        &["serve"],
        USAGE,
        &["limits.toml is a symbolic link", "not on a read-only mount"],
    );
}

fn entries(bursar: &Bursar, event: &str) -> Vec<serde_json::Value> {
    let journal = bursar.journal();
    journal.into_iter().filter(|entry| entry["ev"] == *event).collect()
}

#[tokio::test]
async fn limits_that_others_can_change_while_it_runs_are_rejected_and_the_old_ones_stay() {
    let shop = shop().await;
    let mut bursar = setup().trust(&shop.ca_pem).start();
    let path = bursar.path().join("limits.toml");
    // In one step, so that it is never seen with other rights.
    let draft = bursar.path().join("limits.new");
    let paused = LIMITS.replace("per_transaction", "paused = true\nper_transaction");
    std::fs::write(&draft, paused).unwrap();
    set_mode(&draft, 0o666);
    std::fs::rename(&draft, &path).unwrap();
    let rejected = || entries(&bursar, "policy.rejected").pop();
    eventually("the rejection", || {
        rejected().filter(|entry| entry["reason"] == "limits.toml can be changed by others")
    })
    .await;
    let alert = eventually("the alert", || entries(&bursar, "alert.raised").pop()).await;
    assert_eq!(alert["kind"], "limits-rejected");
    let detail = alert["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("chmod go-w {}", path.display())), "{detail}");
    assert_eq!(entries(&bursar, "policy.load").len(), 1);
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    // A change of its mode alone is seen too.
    set_mode(&path, 0o644);
    eventually("the new limits", || {
        (entries(&bursar, "policy.load").len() == 2).then_some(())
    })
    .await;
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 403);
    assert_eq!(entries(&bursar, "alert.raised").len(), 1, "the same alert once an hour");
    assert_eq!(bursar.stop(), DONE);
}

/// Adds `[limits]` to bursar.toml.
fn limits_at(home: &Home, path: &Path, more: &str) {
    let config = home.path().join("bursar.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.split("\n[limits]").next().unwrap().to_owned();
    let section = format!("{text}\n[limits]\nfile = \"{}\"\n{more}", path.display());
    std::fs::write(&config, section).unwrap();
}

#[tokio::test]
async fn limits_may_lie_in_finances_own_folder() {
    if !is_root() {
        return skip("root, to give files away");
    }
    let shop = shop().await;
    let home = setup().trust(&shop.ca_pem).home();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("limits.toml");
    std::fs::rename(home.path().join("limits.toml"), &path).unwrap();
    set_mode(folder.path(), 0o755);
    set_mode(&path, 0o600);
    for given in [folder.path(), &path] {
        chown(given, Some(FINANCE), None).unwrap();
    }
    limits_at(&home, &path, "");
    fails(
        home.path(),
        &["serve"],
        USAGE,
        &["belongs to uid 4242", "must belong to uid 0", "owner = 4242"],
    );
    limits_at(&home, &path, "owner = 4243\n");
    fails(home.path(), &["serve"], USAGE, &["belongs to uid 4242", "4243"]);
    limits_at(&home, &path, "owner = 4242\n");
    let mut bursar = home.serve();
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    // Finance's change takes effect without the operator.
    let paused = LIMITS.replace("per_transaction", "paused = true\nper_transaction");
    std::fs::write(&path, paused).unwrap();
    eventually("the new limits", || {
        (entries(&bursar, "policy.load").len() == 2).then_some(())
    })
    .await;
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 403);
    // Its folder is not anybody's.
    std::fs::write(&path, LIMITS).unwrap();
    set_mode(folder.path(), 0o777);
    eventually("the rejection", || entries(&bursar, "policy.rejected").pop()).await;
    assert_eq!(bursar.stop(), DONE);
}

/// A volume as Kubernetes mounts it: everybody may write to its folders, but the mount is read-only. The mount is in a
/// namespace of its own, which ends with the server.
fn in_a_volume(volume: &Path, options: &str) -> Option<Command> {
    let script = "set -e; mount -t tmpfs none \"$V\"; mkdir \"$V/..2026_11_20\"; \
                  cp \"$FROM\"/* \"$V/..2026_11_20/\"; chmod 644 \"$V/..2026_11_20/limits.toml\"; \
                  chmod 440 \"$V/..2026_11_20/wallet.key\"; ln -s ..2026_11_20 \"$V/..data\"; \
                  for name in limits.toml wallet.key; do ln -s \"..data/$name\" \"$V/$name\"; done; \
                  chmod 777 \"$V\" \"$V/..2026_11_20\"; mount -o remount,$OPTIONS \"$V\"; exec \"$0\" \"$@\"";
    let can = Command::new("unshare").args(["--mount", "true"]).status();
    if !can.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, bin()]);
    command.env("V", volume).env("OPTIONS", options);
    Some(command)
}

#[tokio::test]
async fn a_read_only_volume_of_root_is_followed_through_its_links() {
    let volume = tempfile::tempdir().unwrap();
    let (Some(program), Some(writable)) = (in_a_volume(volume.path(), "ro"), in_a_volume(volume.path(), "rw")) else {
        return skip("a mount namespace (root)");
    };
    let shop = shop().await;
    let wallet = format!("[wallet.evm]\nkey = \"file:{}/wallet.key\"\n", volume.path().display());
    let home = setup().trust(&shop.ca_pem).wallet(&wallet).home();
    let from = tempfile::tempdir().unwrap();
    std::fs::rename(home.path().join("limits.toml"), from.path().join("limits.toml")).unwrap();
    std::fs::write(from.path().join("wallet.key"), WALLET_KEY).unwrap();
    limits_at(&home, &volume.path().join("limits.toml"), "");
    let with = |mut program: Command| {
        program.env("FROM", from.path());
        program
    };
    let (home, _) = home
        .try_serve_by(with(writable))
        .err()
        .expect("a link on a writable mount is not followed");
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(
        log.contains("is a symbolic link") && log.contains("is not on a read-only mount"),
        "{log}"
    );

    let mut bursar = home.serve_by(with(program));
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    assert_eq!(bursar.stop(), DONE);
}

/// systemd puts credentials into a folder, and says in a variable which.
#[tokio::test]
async fn a_secret_may_be_a_credential_of_systemd_or_of_a_group() {
    let shop = shop().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("wallet");
    std::fs::write(&key, WALLET_KEY).unwrap();
    set_mode(&key, 0o440);
    let credential = setup()
        .trust(&shop.ca_pem)
        .wallet("[wallet.evm]\nkey = \"credential:wallet\"\n")
        .home();
    fails(credential.path(), &["serve"], USAGE, &["LoadCredential=wallet:PATH"]);
    let mut program = Command::new(bin());
    program.env("CREDENTIALS_DIRECTORY", folder.path());
    let mut bursar = credential.serve_by(program);
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    assert_eq!(bursar.stop(), DONE);

    if !is_root() {
        return skip("root, for a secret of root");
    }
    let wallet = format!("[wallet.evm]\nkey = \"file:{}\"\n", key.display());
    let file = setup().trust(&shop.ca_pem).wallet(&wallet).home();
    let file = starts(file);
    // Of root, but readable by a group that is not ours.
    chown(&key, None, Some(FINANCE)).unwrap();
    set_mode(&key, 0o440);
    fails(
        file.path(),
        &["serve"],
        USAGE,
        &["mode 0440", "can be read by other users"],
    );
}

/// The capabilities in a status file of /proc: permitted, effective and bounding.
fn capabilities(status: &str) -> Vec<u64> {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(name, _)| ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"].contains(name));
    wanted
        .map(|(_, bits)| u64::from_str_radix(bits.trim(), 16).unwrap())
        .collect()
}

/// CAP_DAC_READ_SEARCH is 2 and CAP_NET_BIND_SERVICE is 10.
const KEPT: u64 = (1 << 2) | (1 << 10);

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_of_root_says_so_and_drops_its_capabilities() {
    if !is_root() {
        return skip("root");
    }
    let shop = shop().await;
    // The fourth cent of five raises an alert, so that the server starts a program.
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.05\"\n";
    let config = "[alerts]\ncommand = [\"sh\", \"-c\", \"cat /proc/self/status > status.new; mv status.new status\"]\n";
    let mut bursar = setup().limits(limits).trust(&shop.ca_pem).config(config).start();
    let log = bursar.log();
    assert!(log.contains("running as root: all capabilities but"), "{log}");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bursar.pid())).unwrap();
    let tasks: Vec<PathBuf> = tasks.map(|task| task.unwrap().path().join("status")).collect();
    assert!(tasks.len() > 1, "{tasks:?}");
    for task in tasks {
        // A thread may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(&task) else {
            continue;
        };
        // Inheritable, permitted, effective, bounding, ambient; some machines take some away from root already.
        let [inheritable, permitted, effective, bounding, ambient] = capabilities(&status)[..] else {
            panic!("{status}")
        };
        assert_eq!((inheritable, ambient), (0, 0), "{status}");
        for kept in [permitted, effective, bounding] {
            assert_eq!(kept & !KEPT, 0, "{status}");
        }
        assert!(status.contains("Uid:\t0\t0\t0\t0"), "the uid stays: {status}");
    }
    for _ in 0..5 {
        assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    }
    let file = bursar.path().join("status");
    let status = eventually("the alert command", || std::fs::read_to_string(&file).ok()).await;
    let child = capabilities(&status);
    assert!(
        child.iter().all(|bits| bits & !KEPT == 0),
        "a program that it starts: {status}"
    );
    assert_eq!(bursar.stop(), DONE);
}

/// The socket's mode keeps other users away; if it fails, the kernel's word about the peer does.
#[cfg(target_os = "linux")]
#[test]
fn a_user_who_gets_at_the_admin_socket_is_not_answered() {
    if !is_root() {
        return skip("root, to be another user");
    }
    let bursar = setup().start();
    let socket = bursar.path().join("run/admin.sock");
    for (path, mode) in [
        (bursar.path().to_owned(), 0o711),
        (bursar.path().join("run"), 0o711),
        (socket.clone(), 0o666),
    ] {
        set_mode(&path, mode);
    }
    let script = "import socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\n\
                  ask = b'POST /approvals/pending HTTP/1.1\\r\\nHost: bursar\\r\\nContent-Length: 4\\r\\n\\r\\nnull'\n\
                  try:\n    s.sendall(ask)\n    answer = s.recv(100)\n\
                  except (ConnectionResetError, BrokenPipeError):\n    answer = b''\n\
                  print(len(answer))\n";
    let asked_as = |uid: &str| {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                uid,
                "--regid",
                uid,
                "--clear-groups",
                "/usr/bin/env",
                "python3",
                "-c",
                script,
            ])
            .arg(&socket)
            .output()
            .unwrap();
        (
            String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned(),
            stderr(&output),
        )
    };
    let (own, said) = asked_as("0");
    assert_ne!(own, "0", "root is answered: {said}");
    let (other, said) = asked_as("65534");
    assert_eq!(other, "0", "{said}");
}
