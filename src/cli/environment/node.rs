//! Node versions that ignore proxy variables: a file that makes them obey, and a word to the person who runs one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use bursar_home::{self as home, Home, HomeError, Readers};

const NODE_PROXY: &str = include_str!("node-proxy.cjs");

/// `node` may be a version manager's script that uses the network.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes the file that `NODE_OPTIONS` names, unless it is there already. An older version of bursar may have written
/// another text.
pub(in crate::cli) fn write_node_proxy(home: &Home) -> Result<(), HomeError> {
    let path = home.node_proxy();
    if std::fs::read(&path).is_ok_and(|text| text == NODE_PROXY.as_bytes()) {
        return Ok(());
    }
    home::write_atomic(&path, NODE_PROXY.as_bytes(), Readers::Everyone)
}

/// The value of `NODE_OPTIONS` that loads the file, after what is there.
pub(super) fn node_options(inherited: Option<&str>, node_proxy: &Path) -> String {
    let ours = format!("--require={}", quoted(&node_proxy.display().to_string()));
    match inherited {
        // A shell may evaluate the exports twice.
        Some(theirs) if theirs.contains(&ours) => theirs.to_owned(),
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours,
    }
}

/// Node splits the options at blanks, except between double quotes; a backslash escapes there.
fn quoted(path: &str) -> String {
    if !path.contains([' ', '"', '\\']) {
        return path.to_owned();
    }
    format!("\"{}\"", path.replace('\\', r"\\").replace('"', "\\\""))
}

/// The version of the Node that runs `program`, if that is a Node, or a script for one, that ignores proxy variables.
pub(in crate::cli) async fn old_node(program: &OsStr) -> Option<String> {
    let node = node_that_runs(program, std::env::var_os("PATH").as_deref())?;
    let asked = Command::new(node)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, asked).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!reads_proxy_variables(version(&text)?)).then_some(text)
}

/// `--use-env-proxy` came with 22.21 and 24.5.
const fn reads_proxy_variables((major, minor): (u32, u32)) -> bool {
    match major {
        22 => minor >= 21,
        24 => minor >= 5,
        _ => major > 24,
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix('v')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn node_that_runs(program: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    let program = located(program, search)?;
    if is_node(&program) {
        return Some(program);
    }
    let interpreter = interpreter(&program)?;
    is_node(&interpreter).then(|| located(interpreter.as_os_str(), search))?
}

fn is_node(program: &Path) -> bool {
    program
        .file_name()
        .is_some_and(|name| name == "node" || name == "nodejs")
}

/// As `execvp` looks for it.
fn located(program: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    std::env::split_paths(search?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// What the first line of a script names: `#!/usr/bin/node`, `#!/usr/bin/env node`, `#!/usr/bin/env -S node --flag`.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    File::open(script).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let path = |word: &[u8]| PathBuf::from(OsString::from_vec(word.to_vec()));
    let first = path(words.next()?);
    if first.file_name().is_none_or(|name| name != "env") {
        return Some(first);
    }
    // Options, and variables that `env` sets.
    words
        .find(|word| !word.starts_with(b"-") && !word.contains(&b'='))
        .map(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_read_proxy_variables() {
        for (text, reads) in [
            ("v18.20.8", false),
            ("v20.20.2", false),
            ("v22.9.0", false),
            ("v22.21.0", true),
            ("v23.11.1", false),
            ("v24.4.1", false),
            ("v24.5.0", true),
            ("v25.0.0", true),
        ] {
            assert_eq!(reads_proxy_variables(version(text).unwrap()), reads, "{text}");
        }
        assert_eq!(version("nonsense"), None);
    }

    #[test]
    fn options_keep_what_was_set() {
        let path = Path::new("/d/node-proxy.cjs");
        assert_eq!(node_options(None, path), "--require=/d/node-proxy.cjs");
        let both = node_options(Some("--max-old-space-size=99"), path);
        assert_eq!(both, "--max-old-space-size=99 --require=/d/node-proxy.cjs");
        assert_eq!(node_options(Some(&both), path), both);
        let odd = node_options(None, Path::new(r#"/a "b"\c/p.cjs"#));
        assert_eq!(odd, r#"--require="/a \"b\"\\c/p.cjs""#);
    }

    #[test]
    fn the_node_of_a_command_is_itself_or_what_its_first_line_names() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let file = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        file("node", "\u{7f}ELF");
        file("npm", "#!/usr/bin/env node\nrequire('x')\n");
        file("flags", "#!/usr/bin/env -S A=b node --flag\n");
        file("fixed", "#! /opt/node/bin/node\n");
        file("shell", "#!/bin/sh\nexec node x\n");
        file("python", "#!/usr/bin/env python3\n");
        file("binary", "\u{7f}ELF");
        file("empty", "#!\n");
        let run = |program: &str| node_that_runs(OsStr::new(program), Some(dir.as_os_str()));
        for name in ["node", "npm", "flags"] {
            assert_eq!(run(name), Some(dir.join("node")), "{name}");
        }
        assert_eq!(run("fixed"), Some("/opt/node/bin/node".into()));
        assert_eq!(run(dir.join("npm").to_str().unwrap()), Some(dir.join("node")));
        for name in ["shell", "python", "binary", "empty", "missing"] {
            assert_eq!(run(name), None, "{name}");
        }
    }
}
