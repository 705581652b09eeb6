//! The checks of `.ci/run` themselves: each is given a tree that it must refuse (threat 3.13). The steps that only call
//! a tool of Rust's are left to that tool.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree of one's own, outside of any repository.
struct Tree(tempfile::TempDir);

impl Tree {
    fn empty() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.git(&["init", "-q"]);
        tree.write("Cargo.lock", "version = 4\n");
        tree.write("fuzz/Cargo.lock", "version = 4\n");
        tree.write("benches/proxy/Cargo.lock", "version = 4\n");
        tree
    }

    /// This repository, as it would be committed.
    fn copied() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let copy = "git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C \"$1\"";
        let copied = Command::new("bash")
            .args(["-o", "pipefail", "-c", copy, "bash"])
            .arg(tree.0.path())
            .current_dir(here())
            .status();
        assert!(copied.unwrap().success());
        tree
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn change(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.path().join(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        self.write(file, &text.replacen(from, to, 1));
    }

    fn git(&self, arguments: &[&str]) {
        let git = Command::new("git").args(arguments).current_dir(self.0.path()).status();
        assert!(git.unwrap().success(), "git {arguments:?}");
    }

    /// A command of the shell with the functions of `.ci/run`, for this tree.
    fn run(&self, command: &str) -> (bool, String) {
        let script = format!("source \"$1\"\nif {{ {command}; }} 2>&1; then exit 0; else exit 1; fi");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script, "bash"]).arg(here().join(".ci/run"));
        shell.env("CI_ROOT", self.0.path()).env("CARGO_TARGET_DIR", target());
        let output = shell.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    fn refuses(&self, command: &str, because: &str) {
        let (passed, said) = self.run(command);
        assert!(!passed, "{command} passed: {said}");
        assert!(said.contains(because), "{command} failed for another reason: {said}");
    }

    fn passes(&self, command: &str) -> String {
        let (passed, said) = self.run(command);
        assert!(passed, "{command} failed: {said}");
        said
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

#[test]
fn a_path_of_one_machine_is_refused_in_any_file() {
    // In two parts: this file is checked as well.
    for top in ["ho|me", "Us|ers", "ro|ot", "wo|rk", "t|mp"] {
        let path = format!("/{}/somebody", top.replace('|', ""));
        for (file, text) in [
            ("src/a.rs", format!("const A: &str = \"{path}\";\n")),
            ("docs/a.md", format!("See {path}/notes.\n")),
            (".config", format!("key={path}\n")),
        ] {
            let tree = Tree::empty();
            tree.passes("tree");
            tree.write(file, &text);
            tree.refuses("tree", &format!("{file}:1:"));
        }
    }
    let tree = Tree::empty();
    tree.write(
        "a.sh",
        "cd $TMPDIR/tmp/x; cat ~/work/x; curl https://a.example/home/x\n",
    );
    tree.passes("tree");
}

#[test]
fn a_package_registry_is_refused_in_text_and_lock_files() {
    for host in [
        "https://nex|us.example.com/repository/npm-all/",
        "http://artifac|tory.example.com/artifactory/api/npm/x",
        "https://crates-mir|ror.example.com/index/",
        "https://regis|try.npmjs.org/left-pad",
        "https://py|pi.org/simple/x",
        "https://index.cra|tes.io/config.json",
    ] {
        let tree = Tree::empty();
        tree.write("tool.toml", &format!("url = \"{}\"\n", host.replace('|', "")));
        tree.refuses("tree", "names of package registries");
    }
    for lock in ["Cargo.lock", "fuzz/Cargo.lock", "benches/proxy/Cargo.lock"] {
        let tree = Tree::empty();
        let official = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        tree.write(lock, official);
        tree.passes("tree");
        tree.write(lock, &format!("{official}source = \"git+https://github.com/a/b#0\"\n"));
        tree.refuses("tree", &format!("{lock}:2:"));
    }
    let tree = Tree::empty();
    tree.write(
        "a/package-lock.json",
        "{\n \"resolved\": \"https://a.example/x.tgz\"\n}\n",
    );
    tree.refuses("tree", "package-lock.json: resolved addresses");
}

#[test]
fn another_version_under_the_fuzzer_is_refused() {
    refuses_another_version("fuzz/Cargo.lock");
}

#[test]
fn another_version_under_the_benchmark_of_the_proxy_is_refused() {
    refuses_another_version("benches/proxy/Cargo.lock");
}

fn refuses_another_version(lock: &str) {
    let package = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    let check = format!("same_versions {lock}");
    let tree = Tree::empty();
    tree.write("Cargo.lock", &(package("a", "1.0.0") + &package("a", "2.0.0")));
    tree.write(lock, &(package("a", "2.0.0") + &package("only-here", "1.0.0")));
    tree.passes(&check);
    tree.write(lock, &package("a", "2.0.1"));
    tree.refuses(&check, "a 2.0.1");
}

#[test]
fn a_citation_of_what_does_not_exist_is_refused() {
    let tree = Tree::copied();
    let check = "python3 tests/documents/citations.py";
    tree.passes(check);
    tree.change("src/lib.rs", "//! bursar", "//! As R999 says, bursar");
    tree.refuses(check, "R999");
    tree.change("src/lib.rs", "As R999 says, ", "");
    tree.change("docs/README.md", "](", "](gone-for-good.md) [x](");
    tree.refuses(check, "gone-for-good.md");
}

#[test]
fn a_threat_with_a_test_that_does_not_exist_is_refused() {
    let tree = Tree::copied();
    let check = "python3 tests/documents/threats.py";
    tree.passes(check);
    tree.change("docs/threats.md", "`no_host`", "`no_such_test`");
    tree.refuses(check, "there is no test no_such_test");
    tree.change("docs/threats.md", "`no_such_test`", "`no_host`");
    tree.change(
        "crates/core/src/host.rs",
        "    #[test]\n    fn no_host()",
        "    fn no_host()",
    );
    tree.refuses(check, "there is no test no_host");
}

#[test]
fn a_failed_step_ends_the_run() {
    let tree = Tree::empty();
    let (passed, said) = tree.run("step one true; step two false; step three true");
    assert!(
        !passed && said.contains("one: ok") && said.contains("two: FAILED"),
        "{said}"
    );
    assert!(!said.contains("three"), "{said}");
}

#[test]
fn what_was_not_checked_is_named_in_the_last_line_before_the_summary() {
    let tree = Tree::empty();
    let tests = "printf 'test result: ok. 1 passed\\n\\nrunning 2 tests\\ntest result: ok. 2 passed\\n\\n'";
    let last = |said: &str| {
        let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.last().copied(), Some("test result: ok. 2 passed"), "{said}");
        lines[lines.len() - 2].to_owned()
    };
    let all = tree.passes(&format!("{tests} | total_before_summary"));
    assert!(
        last(&all).starts_with("--- all steps: ") && !all.contains("NOT CHECKED"),
        "{all}"
    );
    // Nothing answers here, so the database cannot be looked at.
    let unreachable = "advisory_database=https://127.0.0.1:1/advisory-db; step advisories advisories";
    let one = tree.passes(&format!("{unreachable}; {tests} | total_before_summary"));
    let named = "; NOT CHECKED: advisories (database not reachable)";
    assert!(last(&one).ends_with(named), "{one}");
    let two = tree.passes(&format!(
        "{unreachable}; skipped fuzzing 'no C++ compiler'; {tests} | total_before_summary"
    ));
    assert!(
        last(&two).ends_with(&format!("{named}, fuzzing (no C++ compiler)")),
        "{two}"
    );
}

/// With crates that are only names, because `deny.toml` judges names, licences and sources.
#[test]
fn a_banned_crate_a_licence_and_a_foreign_source_are_refused() {
    if !target().join("tools/bin/cargo-deny").is_file() {
        let installed = std::env::var_os("BURSAR_CI_TOOLS").is_some();
        assert!(!installed, "cargo-deny is not installed, and .ci/run has installed it");
        eprintln!("skipped: cargo-deny is not installed; .ci/run installs it");
        return;
    }
    let planted = |name: &str, licence: &str, dependency: &str| {
        let tree = Tree::empty();
        let package = |name: &str, licence: &str| {
            format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"{licence}\"\npublish = false\n"
            )
        };
        let manifest = package("planted", "MIT") + &format!("[dependencies]\n{name} = {{ {dependency} }}\n");
        tree.write("Cargo.toml", &manifest);
        tree.write("src/lib.rs", "");
        tree.write("dependency/Cargo.toml", &package(name, licence));
        tree.write("dependency/src/lib.rs", "");
        fs::copy(here().join("deny.toml"), tree.0.path().join("deny.toml")).unwrap();
        fs::remove_file(tree.0.path().join("Cargo.lock")).unwrap();
        tree
    };
    let local = "path = \"dependency\"";
    let check = "cargo generate-lockfile -q && deny bans licenses sources";
    planted("harmless", "MIT", local).passes(check);
    for banned in ["ring", "openssl", "openssl-sys", "native-tls"] {
        planted(banned, "MIT", local).refuses(check, "is explicitly banned");
    }
    planted("harmless", "GPL-3.0-only", local).refuses(check, "failed to satisfy license requirements");

    let repository = Tree::empty();
    repository.write(
        "Cargo.toml",
        "[package]\nname = \"harmless\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"MIT\"\n",
    );
    repository.write("src/lib.rs", "");
    repository.git(&["add", "-A"]);
    repository.git(&[
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.com",
        "commit",
        "-q",
        "-m",
        "a",
    ]);
    let url = format!("git = \"file://{}\"", repository.0.path().display());
    planted("harmless", "MIT", &url).refuses(check, "source-not-allowed");
}
