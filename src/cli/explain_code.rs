//! `bursar explain-code`: what a code in an answer means, and what to do about it.

use clap::Args;

use super::output::print_json;
use super::output::{print, say};
use super::{Exit, Failure};
use crate::answer::explained::{Explained, all, find, page};

#[derive(Args)]
pub(super) struct ExplainCode {
    /// The last part of a problem's `type`, the `details` of Proxy-Status, or the `reason` of a payment
    #[arg(required_unless_present_any = ["all", "markdown"])]
    code: Option<String>,
    /// List every code
    #[arg(long, conflicts_with_all = ["code", "markdown"])]
    all: bool,
    /// Print the page docs/codes.md
    #[arg(long, conflicts_with_all = ["code", "json"])]
    markdown: bool,
    /// Print one JSON object per code
    #[arg(long)]
    json: bool,
}

impl ExplainCode {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if self.markdown {
            print(format_args!("{}", page()))?;
            return Ok(Exit::Done);
        }
        let Some(code) = &self.code else {
            let all = all();
            let width = all.iter().map(|explained| explained.code.len()).max().unwrap_or(0);
            for explained in all {
                match self.json {
                    true => print_json(&explained)?,
                    false => say!("{:width$}  {}", explained.code, explained.meaning)?,
                }
            }
            return Ok(Exit::Done);
        };
        let found = find(code);
        if found.is_empty() {
            return Err(unknown(code));
        }
        for (number, explained) in found.iter().enumerate() {
            match (self.json, number) {
                (true, _) => print_json(explained)?,
                (false, 0) => print(format_args!("{}", text(explained)))?,
                (false, _) => print(format_args!("\n{}", text(explained)))?,
            }
        }
        Ok(Exit::Done)
    }
}

fn text(explained: &Explained) -> String {
    let Explained {
        code,
        status,
        title,
        meaning,
        what_to_do,
    } = explained;
    let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
    format!("{code}{status}: {title}\n\n  Meaning     {meaning}\n  What to do  {what_to_do}\n")
}

fn unknown(code: &str) -> Failure {
    let nearest = all()
        .into_iter()
        .map(|explained| (strsim::damerau_levenshtein(code, explained.code), explained.code))
        .min();
    let hint = match nearest {
        Some((distance, nearest)) if distance <= 3 => format!("did you mean {nearest}?"),
        _ => "bursar explain-code --all lists every code".to_owned(),
    };
    Failure::usage(format!("there is no code {code:?}; {hint}"))
}
