//! The door for finance: another user of the machine asks the running server, and gets what its role allows and no more.
//! The kernel says who asks, so this needs root, to be other users.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{DONE, NEGATIVE, UNAVAILABLE, USAGE, fails, json_lines, mode, stderr, stdout};
use crate::approvals::{AT_ONCE, at_ten_cents, question};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, bin, setup};
use crate::support::buyer::skip;

const FINANCE: &str = "4242";
const STRANGER: &str = "4243";

const LIMITS: &str = "\
timezone = \"UTC\"
[agents.research]
day = \"1.00\"
approval_above = \"0.05\"
[agents.writer]
day = \"3.00\"
";

/// A folder in which finance's group may pass, with the program, which other users cannot reach in a build folder.
struct Hall {
    dir: TempDir,
}

impl Hall {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(bin(), dir.path().join("bursar")).unwrap();
        std::fs::create_dir(dir.path().join("door")).unwrap();
        let hall = Self { dir };
        for (path, mode) in [("", 0o755), ("bursar", 0o755)] {
            set_mode(&hall.path(path), mode);
        }
        // What is made in it belongs to the group.
        chown(hall.path("door"), None, Some(FINANCE.parse().unwrap())).unwrap();
        set_mode(&hall.path("door"), 0o2750);
        hall
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("door/people.sock")
    }

    fn people(&self) -> String {
        format!(
            "[people]\nsocket = \"{}\"\n\"uid:{FINANCE}\" = [\"finance\"]\n",
            self.socket().display()
        )
    }

    fn command(&self, uid: &str, gid: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups", "/usr/bin/env", "-i"]);
        command.args(["HOME=/nonexistent", "PATH=/usr/bin:/bin"]);
        command.current_dir("/");
        command
    }

    /// A command of this user, at the socket.
    fn run_as(&self, uid: &str, gid: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(uid, gid);
        command
            .arg(self.path("bursar"))
            .args(arguments)
            .arg("--socket")
            .arg(self.socket());
        command.output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(FINANCE, FINANCE, arguments)
    }

    /// Sends one request as it is, and returns the answer.
    fn send(&self, uid: &str, request: &str) -> String {
        let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      s.sendall(sys.argv[2].encode())\nanswer = b''\n\
                      while True:\n    part = s.recv(65536)\n    if not part: break\n    answer += part\n\
                      print(answer.decode())\n";
        let mut command = self.command(uid, FINANCE);
        command.args(["python3", "-c", script]).arg(self.socket()).arg(request);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn start(hall: &Hall, ca_pem: &str) -> Bursar {
    let home = setup()
        .trust(ca_pem)
        .limits(LIMITS)
        .config(&format!("{AT_ONCE}{}", hall.people()));
    home.start()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn finance_sees_tests_and_stops_through_its_own_door() {
    if !is_root() {
        return skip("root, to be another user");
    }
    let (hall, origin) = (Hall::new(), at_ten_cents().await);
    let mut bursar = start(&hall, &origin.ca_pem);
    assert_eq!(mode(&hall.socket()), 0o660);
    assert_eq!(Agent::of(&bursar).get(origin.address, "/report").await.status, 503);
    let (_, code) = question(&bursar).await;

    let ok = |arguments: &[&str]| {
        let output = hall.run(arguments);
        assert_eq!(output.status.code(), Some(DONE), "{arguments:?} {output:?}");
        output
    };
    let view = json_lines(&ok(&["limits", "show", "research", "--json"])).remove(0);
    let day = &view["sections"][1]["budgets"][0];
    assert_eq!(
        (&day["held"], &day["settled"], &day["left"]),
        (&"0.10".into(), &"0.00".into(), &"0.90".into())
    );
    let spent = json_lines(&ok(&["spend", "--json", "--by", "day", "--since", "1d"]));
    assert_eq!(
        (spent.len(), &spent[1]["held"], &spent[1]["count"]),
        (2, &"0.10".into(), &1.into()),
        "{spent:#?}"
    );
    let tried = hall.run(&[
        "limits",
        "try",
        "--agent",
        "writer",
        "--host",
        "a.example",
        "--amount",
        "9",
        "--json",
    ]);
    assert_eq!(tried.status.code(), Some(NEGATIVE), "{tried:?}");
    assert!(stdout(&tried).contains("agents.writer.day"), "{tried:?}");
    // Its own copy of the file is compared with the one in force.
    let file = hall.path("limits.toml");
    std::fs::write(&file, LIMITS).unwrap();
    set_mode(&file, 0o644);
    let file = file.display().to_string();
    assert!(stderr(&ok(&["limits", "check", &file, "--wait"])).contains("is in force"));
    std::fs::write(&file, LIMITS.replace("3.00", "4.00")).unwrap();
    let waited = hall.run(&["limits", "check", &file, "--wait", "--timeout", "1s"]);
    assert_eq!(waited.status.code(), Some(4), "{waited:?}");
    bursar.home.write_limits(&LIMITS.replace("3.00", "4.00"));
    ok(&["limits", "check", &file, "--wait", "--timeout", "60s"]);
    assert_eq!(hall.run(&["limits", "check", "--wait"]).status.code(), Some(USAGE));

    // What waits is seen, and the code that approves it is not.
    let waiting = ok(&["pending", "--json"]);
    let question = json_lines(&waiting).remove(0);
    assert_eq!(
        (&question["agent"], &question["code"]),
        (&"research".into(), &"".into())
    );
    assert!(!stdout(&waiting).contains(&code), "{waiting:?}");
    let text = stdout(&ok(&["pending"]));
    assert!(
        text.contains("waiting for the operator") && !text.contains(&code),
        "{text}"
    );

    ok(&["pause", "--agent", "writer", "--why", "a leak"]);
    let pause = bursar
        .journal()
        .into_iter()
        .find(|entry| entry["ev"] == "pause.set")
        .unwrap();
    assert_eq!(pause["who"], "uid:4242");
    assert!(stdout(&ok(&["pause", "--list"])).contains("by uid:4242: a leak"));
    ok(&["resume", "--agent", "writer", "--why", "a new key"]);
    let lifted = bursar
        .journal()
        .into_iter()
        .find(|entry| entry["ev"] == "pause.lifted")
        .unwrap();
    assert_eq!(lifted["who"], "uid:4242");
    assert_eq!(bursar.stop(), DONE);
    assert!(!hall.socket().exists());
    let gone = hall.run(&["limits", "show"]);
    assert_eq!(gone.status.code(), Some(UNAVAILABLE), "{gone:?}");
    assert!(stderr(&gone).contains("no server listens at "), "{gone:?}");
    assert_eq!(stdout(&gone), "");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn everything_else_is_refused_and_changes_nothing() {
    if !is_root() {
        return skip("root, to be another user");
    }
    let (hall, origin) = (Hall::new(), at_ten_cents().await);
    let mut bursar = start(&hall, &origin.ca_pem);
    assert_eq!(Agent::of(&bursar).get(origin.address, "/report").await.status, 503);
    let (id, code) = question(&bursar).await;
    let before = bursar.journal().len();
    let request = |method: &str, path: &str, body: &Value| {
        let body = body.to_string();
        let length = body.len();
        format!("{method} {path} HTTP/1.1\r\nHost: bursar\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let approval = serde_json::json!({"id": id, "code": code});
    for (method, path) in [
        ("POST", "/approvals/approve"),
        ("POST", "/approvals/deny"),
        ("POST", "/payments/resolve"),
        ("POST", "/clock/accept"),
        ("POST", "/reconcile"),
        ("POST", "/limits/other"),
        ("POST", "/limits/show/../../approvals/approve"),
        ("POST", "/pause/"),
        ("POST", "//approvals/approve"),
        ("POST", "http://bursar/approvals/approve"),
        ("PUT", "/approvals/approve"),
        ("GET", "/limits/show"),
        ("GET", "/approvals/pending"),
        ("OPTIONS", "*"),
    ] {
        let answer = hall.send(FINANCE, &request(method, path, &approval));
        assert!(answer.starts_with("HTTP/1.1 403 "), "{method} {path}: {answer}");
        assert!(answer.contains("uid 4242 (finance) may not do this"), "{answer}");
    }
    // In the group, and without a role; root is nobody here either.
    for uid in [STRANGER, "0"] {
        let answer = hall.send(
            uid,
            &request("POST", "/limits/show", &serde_json::json!({"name": null})),
        );
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains(&format!("\\\"uid:{uid}\\\"")),
            "{answer}"
        );
    }
    let output = hall.run_as(STRANGER, FINANCE, &["spend"]);
    assert_eq!(output.status.code(), Some(USAGE), "{output:?}");
    assert!(stderr(&output).contains("has no role at this socket"), "{output:?}");
    // Not in the group.
    let output = hall.run_as(STRANGER, STRANGER, &["spend"]);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
    assert!(stderr(&output).contains("may not connect to "), "{output:?}");
    // Finance has nothing to ask at the operator's socket.
    let mut command = hall.command(FINANCE, FINANCE);
    command
        .arg(hall.path("bursar"))
        .args(["pending", "--socket"])
        .arg(bursar.path().join("run/admin.sock"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
    assert_eq!(bursar.journal().len(), before);
    assert_eq!(bursar.states(), ["held"]);
    assert_eq!(bursar.stop(), DONE);
}

#[cfg(target_os = "linux")]
#[test]
fn the_socket_is_made_anew_and_never_where_others_could_put_their_own() {
    if !is_root() {
        return skip("root, to give folders away");
    }
    let hall = Hall::new();
    let bursar = setup().config(&hall.people()).start();
    // A second server, on another directory.
    let other = setup().config(&hall.people()).home();
    fails(other.path(), &["serve"], USAGE, &["another process listens on "]);
    let pid = Pid::from_raw(bursar.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let mut bursar = bursar;
    let home = bursar.kill();
    assert!(
        std::fs::symlink_metadata(hall.socket())
            .unwrap()
            .file_type()
            .is_socket()
    );
    let mut bursar = home.serve();
    let about = std::fs::metadata(hall.socket()).unwrap();
    assert_eq!((about.mode() & 0o7777, about.gid()), (0o660, 4242));
    assert_eq!(bursar.stop(), DONE);

    std::fs::write(hall.socket(), "precious").unwrap();
    fails(other.path(), &["serve"], USAGE, &["is not a socket"]);
    assert_eq!(std::fs::read_to_string(hall.socket()).unwrap(), "precious");
    std::fs::remove_file(hall.socket()).unwrap();
    set_mode(&hall.path("door"), 0o2770);
    fails(other.path(), &["serve"], USAGE, &["mode 2770", "chmod go-w"]);
    set_mode(&hall.path("door"), 0o2750);
    chown(hall.path("door"), Some(4242), None).unwrap();
    fails(other.path(), &["serve"], USAGE, &["owner uid 4242"]);
    std::fs::remove_dir(hall.path("door")).unwrap();
    fails(
        other.path(),
        &["serve"],
        USAGE,
        &["[people] socket", "folder must exist"],
    );
}
