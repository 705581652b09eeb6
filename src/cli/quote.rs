//! `bursar quote`: what a site asks for a request, and what bursar would do about it. Nothing is paid or held.

use std::io::Read;

use clap::Args;

use super::limits::in_figures;
use super::output::{print_json, say};
use super::{Exit, Failure};
use crate::admin::{self, AdminError};
use crate::listen::quote::Ask;
use crate::payment::quote::{Quote, Quoted};
use bursar_home::Home;

/// What is sent twice must fit into the memory for it (R9).
const LONGEST_BODY: u64 = 1 << 20;

#[derive(Args)]
#[command(after_help = "\
The running server sends the request to the site once, without a payment, as the agent would send it.
Exit codes: 0 free, or it would be paid; 4 a person would be asked; 1 it would not be paid, or the site named no price;
2 usage; 5 no server is running.")]
pub(super) struct Command {
    /// What the agent would ask for
    #[arg(value_name = "URL")]
    url: String,
    /// Who would buy
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// [default: GET, with --data POST]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// A header field of the request; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(String, String)>,
    /// The request's body; `@FILE` reads it from a file, `@-` from stdin
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let default = match self.data {
            None => "GET",
            Some(_) => "POST",
        };
        let asked = Ask {
            agent: self.agent,
            url: self.url,
            method: self.method.unwrap_or_else(|| default.to_owned()),
            headers: self.headers,
            body: self.data.as_deref().map(body).transpose()?.unwrap_or_default(),
        };
        let quote = match admin::quote(home, &asked).await {
            Ok(quote) => quote,
            Err(AdminError::Refused(why)) => return Err(Failure::usage(why)),
            Err(AdminError::NoServer) => {
                let dir = home.root().display();
                return Err(Failure::unavailable(format!(
                    "no server is running on {dir}, and only a server asks sites; start one with `bursar serve --dir {dir}`"
                )));
            }
            Err(error) => return Err(Failure::negative(error.to_string())),
        };
        match self.json {
            true => print_json(&quote)?,
            false => say!("{}", in_words(&quote))?,
        }
        Ok(match quote.report.verdict.as_str() {
            "free" | "pay" => Exit::Done,
            "ask" => Exit::Pending,
            _ => Exit::Negative,
        })
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "write it as NAME: VALUE, such as `Accept: application/json`".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn body(data: &str) -> Result<String, Failure> {
    let Some(name) = data.strip_prefix('@') else {
        return Ok(data.to_owned());
    };
    let source: Box<dyn Read> = match name {
        "-" => Box::new(std::io::stdin()),
        path => {
            let file = std::fs::File::open(path);
            Box::new(file.map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?)
        }
    };
    let mut text = String::new();
    let read = source.take(LONGEST_BODY + 1).read_to_string(&mut text);
    read.map_err(|error| {
        Failure::usage(format!(
            "cannot read the body from {name}: {error}; it must be text in UTF-8"
        ))
    })?;
    match u64::try_from(text.len()) {
        Ok(length) if length <= LONGEST_BODY => Ok(text),
        _ => Err(Failure::usage(format!(
            "the body in {name} is larger than 1 MiB; bursar pays for no request with such a body, because it cannot be sent twice"
        ))),
    }
}

fn in_words(quote: &Quote) -> String {
    let report = &quote.report;
    let code = report.code.as_deref().unwrap_or_default();
    let heading = match report.verdict.as_str() {
        "free" => "FREE: the site asks for no payment".to_owned(),
        "pay" => "WOULD BE PAID".to_owned(),
        "ask" => "WOULD BE ASKED: a person must approve it".to_owned(),
        "unpaid" => format!("WOULD NOT BE PAID {code}"),
        "refuse" => format!(
            "WOULD BE REFUSED {code} by {}",
            report.rule.as_deref().unwrap_or_default()
        ),
        _ => format!("NO PRICE {code}"),
    };
    let mut text = match quote.status {
        Some(status) => format!("{} answers {status}\n", quote.url),
        None => format!("{}\n", quote.url),
    };
    text += &heading;
    text += &in_figures(report);
    if let Some(detail) = &report.detail {
        text += &format!("\n  {detail}");
    }
    for offer in quote.offers.iter().filter(|offer| offer.why.is_some()) {
        text += &format!("\n  not taken    {}", other(offer));
    }
    text + "\nNothing was paid, held or recorded."
}

fn other(offer: &Quoted) -> String {
    let named = match (&offer.amount, &offer.symbol, &offer.network, &offer.rail) {
        (Some(amount), Some(symbol), Some(network), Some(rail)) => {
            format!("{amount} {symbol} on {network} over {rail} ({})", offer.at)
        }
        _ => offer.at.clone(),
    };
    format!("{named}: {}", offer.why.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_field_has_a_name_and_a_value() {
        assert_eq!(field("Accept: a:b "), Ok(("Accept".to_owned(), "a:b".to_owned())));
        assert!(field("Accept").is_err());
    }

    #[test]
    fn a_body_is_text_or_a_file() {
        assert_eq!(body("{}").ok().as_deref(), Some("{}"));
        assert!(body("@/nowhere/at/all").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let named = format!("@{}", file.path().display());
        std::fs::write(file.path(), "a=b").unwrap();
        assert_eq!(body(&named).ok().as_deref(), Some("a=b"));
        std::fs::write(file.path(), vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(body(&named).is_err());
    }
}
