//! Where the database of a shared ledger is, and whether the connection to it is encrypted.

use std::net::IpAddr;
use std::path::Path;

/// A `postgres://` URL that contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    pub user: String,
    /// A host name or IP address, or the path of the directory that holds a unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub sslmode: Sslmode,
}

/// The `sslmode` of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sslmode {
    /// Not given: TLS, unless the database is on this machine.
    Unsaid,
    VerifyFull,
    Disable,
}

/// What is wrong with a URL, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub struct BadUrl {
    pub what: String,
    pub help: &'static str,
}

const PORT: u16 = 5432;

const FORM: &str = "Write \"postgres://user@host:5432/database\", or \"embedded\" for a ledger in the data directory.";

impl DatabaseUrl {
    /// Parses `postgres://user@host[:port]/database[?sslmode=verify-full|disable][&host=/socket/directory]`.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = |what: &str| BadUrl {
            what: what.to_owned(),
            help: FORM,
        };
        let rest = url.strip_prefix("postgres://").or(url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| bad("this is neither \"embedded\" nor a postgres:// URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').ok_or_else(|| bad("it names no database"))?;
        let (user, host) = authority.rsplit_once('@').ok_or_else(|| bad("it names no user"))?;
        if user.contains(':') {
            return Err(BadUrl {
                what: "it contains a password".to_owned(),
                help: "Remove it and change the password, because anyone who can read the file knows it. Then write \
                       password = \"env:NAME\" or password = \"file:PATH\" below.",
            });
        }
        let (host, port) = host_and_port(host).ok_or_else(|| bad("its host and port cannot be read"))?;
        let mut url = Self {
            user: plain_text(user).ok_or_else(|| bad("its user cannot be read"))?,
            host,
            port,
            database: plain_text(database).ok_or_else(|| bad("its database cannot be read"))?,
            sslmode: Sslmode::Unsaid,
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            url.set(name, value)?;
        }
        let named = [&url.user, &url.host, &url.database];
        if named.into_iter().any(String::is_empty) {
            return Err(bad("user, host and database must all be named"));
        }
        Ok(url)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), BadUrl> {
        match (name, value) {
            ("sslmode", "verify-full") => self.sslmode = Sslmode::VerifyFull,
            ("sslmode", "disable") => self.sslmode = Sslmode::Disable,
            ("sslmode", _) => {
                return Err(BadUrl {
                    what: "this sslmode does not verify the database's identity".to_owned(),
                    help: "Leave it out to verify the database's certificate, or write \"disable\" to connect without \
                           TLS.",
                });
            }
            ("host", path) if path.starts_with('/') || path.starts_with("%2F") => {
                self.host = plain_text(path).unwrap_or_default();
            }
            _ => {
                return Err(BadUrl {
                    what: "it has an unsupported parameter".to_owned(),
                    help: "Supported are sslmode=verify-full, sslmode=disable and host=/directory/of/the/socket.",
                });
            }
        }
        Ok(())
    }

    /// The directory of the unix socket, if the host is one.
    pub fn socket(&self) -> Option<&Path> {
        self.host.starts_with('/').then(|| Path::new(&self.host))
    }

    /// Whether the connection uses TLS with a verified certificate.
    pub fn is_encrypted(&self) -> bool {
        match self.sslmode {
            Sslmode::Unsaid => !self.is_local(),
            Sslmode::VerifyFull => true,
            Sslmode::Disable => false,
        }
    }

    /// Whether the traffic stays on this machine.
    pub fn is_local(&self) -> bool {
        let loopback = self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        loopback || self.host == "localhost" || self.socket().is_some()
    }
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = rest.strip_prefix(':').map_or(Some(PORT), |port| port.parse().ok())?;
        return Some((address.to_owned(), port));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((plain_text(host)?, port.parse().ok()?)),
        None => Some((plain_text(text)?, PORT)),
    }
}

/// Decodes percent-encoding.
fn plain_text(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_who_where_and_how() {
        let url = DatabaseUrl::parse("postgres://bursar@db.example.com/books").unwrap();
        let whole = ("bursar", "db.example.com", 5432, "books");
        let read = (&*url.user, &*url.host, url.port, &*url.database);
        assert_eq!(read, whole);
        assert!(url.is_encrypted() && !url.is_local());
        let url = DatabaseUrl::parse("postgresql://b%40x@[::1]:6000/b?sslmode=disable").unwrap();
        assert_eq!((&*url.user, &*url.host, url.port), ("b@x", "::1", 6000));
        assert!(!url.is_encrypted() && url.is_local());
        assert!(
            !DatabaseUrl::parse("postgres://u@db/b?sslmode=disable")
                .unwrap()
                .is_encrypted()
        );
        assert!(
            DatabaseUrl::parse("postgres://u@127.0.0.1/b?sslmode=verify-full")
                .unwrap()
                .is_encrypted()
        );
        assert!(!DatabaseUrl::parse("postgres://u@127.0.0.1/b").unwrap().is_encrypted());
        let url = DatabaseUrl::parse("postgres://bursar@/books?host=%2Frun%2Fpostgresql").unwrap();
        assert_eq!(url.socket(), Some(Path::new("/run/postgresql")));
        assert!(url.is_local());
    }

    #[test]
    fn errors_do_not_repeat_the_password() {
        for (url, what) in [
            ("mysql://u@h/d", "neither"),
            ("postgres://u:hunter2@h/d", "contains a password"),
            ("postgres://h/d", "names no user"),
            ("postgres://u@h", "names no database"),
            ("postgres://u@h/", "must all be named"),
            ("postgres://u@/d", "must all be named"),
            ("postgres://u@h:x/d", "host and port"),
            ("postgres://u@h/d?sslmode=require", "does not verify"),
            ("postgres://u@h/d?password=hunter2", "unsupported parameter"),
            ("postgres://u%zz@h/d", "user cannot be read"),
        ] {
            let why = DatabaseUrl::parse(url).unwrap_err();
            assert!(why.what.contains(what), "{url}: {why:?}");
            assert!(!why.what.contains("hunter2"));
        }
    }
}
