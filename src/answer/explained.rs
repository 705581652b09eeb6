//! Every code that an agent can meet, explained: for `bursar explain-code` and for `docs/codes.md`.

use std::fmt::Write as _;

use serde::Serialize;

use super::code::refusal;
use super::{Code, Spec, Unpaid};
use bursar_core::policy::RefusalCode;
use bursar_ledger::Reason;

/// One code, explained to a person. `--json` prints the members in this order.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Explained {
    pub code: &'static str,
    /// The status of the problem document; `null` for a 402 that is passed on.
    pub status: Option<u16>,
    pub title: &'static str,
    pub meaning: &'static str,
    pub what_to_do: &'static str,
}

const PASSED_ON: &str = "The site's 402 was passed on unpaid";

const REASON: &str = "The reason of a payment in `bursar payments`";

/// All codes: problems first, then the details of 402s, then the reasons of payments.
pub(crate) fn all() -> Vec<Explained> {
    let problems = Code::ALL.iter().map(|code| code.spec());
    let refusals = RefusalCode::ALL.iter().map(|code| refusal(*code));
    let problems = problems.chain(refusals).map(Explained::from);
    let unpaid = Unpaid::all().map(Explained::from);
    let reasons = Reason::all().map(Explained::from);
    problems.chain(unpaid).chain(reasons).collect()
}

/// `code` may be the whole `type` of a problem. Some codes are both an answer and a payment's reason, such as
/// `approval-denied`.
pub(crate) fn find(code: &str) -> Vec<Explained> {
    let code = code.trim().strip_prefix("urn:bursar:problem:").unwrap_or(code.trim());
    all().into_iter().filter(|explained| explained.code == code).collect()
}

/// The full text of `docs/codes.md`.
pub(crate) fn page() -> String {
    let (problems, rest): (Vec<_>, Vec<_>) = all().into_iter().partition(|explained| explained.status.is_some());
    let (details, reasons): (Vec<_>, Vec<_>) = rest.into_iter().partition(|explained| explained.title == PASSED_ON);
    let mut page = String::from(
        "# Codes\n\n\
         This page is made from the program's own tables: `bursar explain-code --markdown`. `bursar explain-code CODE` prints one \
         entry. Codes are never renamed.\n\n\
         ## Problems\n\n\
         The last part of `type` (`urn:bursar:problem:<code>`) and the `details` of `Proxy-Status` in an answer of bursar's own.\n\n\
         | code | status | meaning | what to do |\n|---|---|---|---|\n",
    );
    for Explained {
        code,
        status,
        meaning,
        what_to_do,
        ..
    } in problems
    {
        // Writing into a String never fails.
        let _ = writeln!(
            page,
            "| `{code}` | {} | {meaning} | {what_to_do} |",
            status.unwrap_or_default()
        );
    }
    page += "\n## Details of a 402 that is passed on\n\n\
             The `details` of `Proxy-Status` beside the site's own 402: why it was not paid.\n\n\
             | details | meaning | what to do |\n|---|---|---|\n";
    for Explained {
        code,
        meaning,
        what_to_do,
        ..
    } in details
    {
        let _ = writeln!(page, "| `{code}` | {meaning} | {what_to_do} |");
    }
    page += "\n## Reasons of payments\n\n\
             The `reason` of a payment in `bursar payments list --json`, and the `why` of its journal entries. With `payments \
             resolve` it is the operator's own text instead.\n\n\
             | reason | meaning |\n|---|---|\n";
    for Explained { code, meaning, .. } in reasons {
        let _ = writeln!(page, "| `{code}` | {meaning} |");
    }
    page
}

impl From<Spec> for Explained {
    fn from(spec: Spec) -> Self {
        Self {
            code: spec.code,
            status: Some(spec.status.as_u16()),
            title: spec.title,
            meaning: spec.meaning,
            what_to_do: spec.what_to_do,
        }
    }
}

impl From<Unpaid> for Explained {
    fn from(why: Unpaid) -> Self {
        Self {
            code: why.code(),
            status: None,
            title: PASSED_ON,
            meaning: why.meaning(),
            what_to_do: why.what_to_do(),
        }
    }
}

impl From<Reason> for Explained {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.as_str(),
            status: None,
            title: REASON,
            meaning: reason.meaning(),
            what_to_do: "`bursar payments show ID` prints what is known of the payment.",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_occurs_once_and_is_plain() {
        let all = all();
        let answers: Vec<_> = all.iter().filter(|explained| explained.title != REASON).collect();
        let codes: BTreeSet<_> = answers.iter().map(|explained| explained.code).collect();
        assert_eq!(codes.len(), answers.len());
        for code in codes {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(code.bytes().all(plain), "{code}");
        }
    }

    #[test]
    fn every_code_says_what_it_means_and_what_to_do() {
        for explained in all() {
            for text in [explained.meaning, explained.what_to_do] {
                assert!(
                    text.ends_with('.') && !text.contains('|') && !text.contains('\n'),
                    "{explained:?}"
                );
            }
            assert!(!explained.title.ends_with('.'), "{explained:?}");
        }
    }

    #[test]
    fn the_page_in_docs_is_the_one_that_the_tables_make() {
        let page_in_docs = include_str!("../../docs/codes.md");
        assert!(
            page_in_docs == page(),
            "docs/codes.md is out of date: cargo run -- explain-code --markdown > docs/codes.md"
        );
    }

    #[test]
    fn a_code_is_found_by_itself_and_by_the_type_of_a_problem() {
        assert_eq!(find("over-limit"), find("urn:bursar:problem:over-limit"));
        assert_eq!(find("asset-unknown")[0].status, None);
        assert_eq!(find("approval-denied").len(), 2, "an answer, and a reason");
        assert!(find("over-limits").is_empty());
    }
}
