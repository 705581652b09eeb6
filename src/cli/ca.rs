//! `bursar ca`: the certificate authority that agents trust.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::output::{note, print_json, say};
use super::{Exit, Failure};
use bursar_home::Home;
use bursar_net::tls::authority::Authority;

#[derive(Subcommand)]
pub(super) enum Ca {
    /// Show the certificate's fingerprint and expiry date
    Show {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Create a new authority; restart the server, then give agents the new ca.pem and bundle.pem
    Rotate,
}

impl Ca {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let failed = |error: bursar_net::tls::authority::AuthorityError| Failure::negative(error.to_string());
        match self {
            Self::Show { json } => {
                let authority = Authority::load(home, Timestamp::now()).map_err(failed)?;
                show(home, &authority, json)?;
            }
            Self::Rotate => {
                let authority = Authority::rotate(home, Timestamp::now()).map_err(failed)?;
                show(home, &authority, false)?;
                note!(
                    "Restart the server, then give the new ca.pem and bundle.pem to every agent that does not \
                     use `bursar run`."
                );
            }
        }
        Ok(Exit::Done)
    }
}

fn show(home: &Home, authority: &Authority, as_json: bool) -> Result<(), Failure> {
    let days = authority.not_after().duration_since(Timestamp::now()).as_hours() / 24;
    let path = home.ca_certificate();
    if as_json {
        return print_json(&json!({
            "certificate": path, "sha256": authority.fingerprint(), "not_after": authority.not_after(), "days_left": days,
        }));
    }
    say!("Certificate  {}", path.display())?;
    say!("SHA-256      {}", authority.fingerprint())?;
    say!(
        "Expires      {} (in {days} days)",
        authority.not_after().strftime("%Y-%m-%d")
    )?;
    if authority.expires_soon(Timestamp::now()) {
        note!("It expires soon: run `bursar ca rotate`, then do what it prints.");
    }
    Ok(())
}
