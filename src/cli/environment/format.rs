//! The formats in which variables are printed.

use std::path::Path;

use bursar_home::Home;
use clap::ValueEnum;

use super::Listen;
use super::variables::{Files, Inherited};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// `export NAME='value'`
    Sh,
    /// `NAME=value`, for .env files
    Dotenv,
    /// `docker run` arguments: `--env`, and `--volume` for the files
    Docker,
    /// The `env:` list of a Kubernetes container
    K8s,
    /// `set -gx NAME 'value'`
    Fish,
}

impl Format {
    /// Formats evaluated in this shell must keep its values; the others are used in another environment.
    pub(super) fn inherits(self) -> Inherited {
        match self {
            Self::Sh | Self::Fish => Inherited::from_environment(),
            Self::Dotenv | Self::Docker | Self::K8s => Inherited::default(),
        }
    }

    /// The files that the variables name. `elsewhere` is where the user will put them.
    pub(super) fn files(self, home: &Home, elsewhere: Option<&Path>) -> Files {
        let mut files = Files::here(home);
        let known_to_be_there = match self {
            Self::Sh | Self::Fish => elsewhere.is_none(),
            Self::Docker => true,
            Self::Dotenv | Self::K8s => false,
        };
        if !known_to_be_there {
            files.node_proxy = None;
        }
        match elsewhere {
            Some(folder) => files.in_folder(folder),
            None => files,
        }
    }

    /// What else is needed for these variables to work.
    pub(super) fn notes(self, home: &Home, listen: &Listen, elsewhere: Option<&Path>) -> Vec<String> {
        let dir = home.root().display();
        let mut notes = Vec::new();
        match (self, elsewhere) {
            (Self::Docker, _) | (Self::Sh | Self::Dotenv | Self::Fish, None) => {}
            (Self::K8s, None) => notes.push(format!(
                "The container needs {dir}/ca.pem and {dir}/bundle.pem at these paths: mount them from a ConfigMap."
            )),
            (Self::K8s, Some(folder)) => notes.push(format!(
                "The container needs {dir}/ca.pem and {dir}/bundle.pem in {}: mount them there from a ConfigMap.",
                folder.display()
            )),
            (Self::Sh | Self::Dotenv | Self::Fish, Some(folder)) => notes.push(format!(
                "Copy {dir}/ca.pem and {dir}/bundle.pem to {} where the agent runs.",
                folder.display()
            )),
        }
        let in_container = matches!(self, Self::Docker | Self::K8s);
        if in_container && listen.is_loopback() {
            notes.push(format!(
                "{} is a loopback address, which a container can reach only with host networking. For any other \
                 network, change `listen` under [proxy] in bursar.toml, and pass the address that containers reach \
                 with --address HOST:PORT.",
                listen.authority
            ));
        }
        notes
    }

    /// `unset` are variables of this shell that would lead past bursar.
    pub(super) fn render(self, variables: &[(&str, String)], unset: &[&str], files: &Files, home: &Home) -> String {
        let mut out = String::new();
        if self == Self::Docker {
            out += &volumes(home, files).join(" \\\n");
        }
        for name in unset {
            out += &match self {
                Self::Sh => format!("unset {name}\n"),
                Self::Fish => format!("set -e {name}\n"),
                Self::Dotenv | Self::Docker | Self::K8s => String::new(),
            };
        }
        for (name, value) in variables {
            out += &match self {
                Self::Sh => format!("export {name}={}\n", sh_quote(value)),
                Self::Dotenv => format!("{name}={}\n", dotenv_quote(value)),
                Self::Docker => format!(" \\\n--env {}", sh_quote(&format!("{name}={value}"))),
                Self::K8s => format!("- name: {name}\n  value: {}\n", serde_json::Value::from(value.as_str())),
                Self::Fish => format!("set -gx {name} {}\n", fish_quote(value)),
            };
        }
        if self == Self::Docker {
            out.push('\n');
        }
        out
    }
}

/// Docker mounts each file at the path that the variables name.
fn volumes(home: &Home, files: &Files) -> Vec<String> {
    let mut pairs = vec![(home.ca_certificate(), &files.ca), (home.bundle(), &files.bundle)];
    pairs.extend(files.node_proxy.as_ref().map(|path| (home.node_proxy(), path)));
    pairs
        .into_iter()
        .map(|(from, to)| {
            format!(
                "--volume {}",
                sh_quote(&format!("{}:{}:ro", from.display(), to.display()))
            )
        })
        .collect()
}

/// A word of a command to copy: quoted only if necessary.
pub(in crate::cli) fn sh_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        sh_quote(value)
    }
}

fn sh_quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn fish_quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Readers of .env files disagree about quotes, so they are used only where necessary.
fn dotenv_quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        if matches!(c, '\\' | '"' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_the_value() {
        assert_eq!(sh_quote("a'b"), r"'a'\''b'");
        assert_eq!((sh_word("/d/a-1"), sh_word("a b")), ("/d/a-1".into(), "'a b'".into()));
        assert_eq!(fish_quote(r"a'\b"), r"'a\'\\b'");
        assert_eq!(dotenv_quote("http://a:b@c:1"), "http://a:b@c:1");
        assert_eq!(dotenv_quote("a b$c`"), r#""a b\$c\`""#);
    }
}
