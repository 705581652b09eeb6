//! Mistakes on the command line.

use std::process::Command;

use super::{DONE, USAGE};
use crate::support::bursar::{bin, setup};

#[test]
fn mistakes_in_a_command_exit_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &[],
        &["serve", "--port", "1"],
        &["run", "--agent", "a"],
        &["run", "--", "true"],
        &["agents", "add"],
        &["env", "--agent", "a", "--format", "csh"],
        &["payments", "list", "--state", "paid"],
        &["payments", "list", "--since", "yesterday"],
        &["payments", "list", "--limit", "-1"],
        &["explain"],
        &["sandbox", "--listen", "localhost"],
        &["--log", "loud=very", "agents", "list"],
    ] {
        let home = setup().home();
        let output = Command::new(bin())
            .args(arguments)
            .env("BURSAR_DIR", home.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?} {output:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?} {output:?}"
        );
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["payments", "resolve", "--help"],
        &["help", "run"],
    ] {
        let output = Command::new(bin()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(DONE));
        assert!(
            output.stderr.is_empty() && !output.stdout.is_empty(),
            "{arguments:?} {output:?}"
        );
    }
}
