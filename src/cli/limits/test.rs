//! `bursar limits test`: cases with the verdict that finance expects, run against a file.

mod case;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::super::output::{note, print_json, say};
use super::super::{Exit, Failure};
use super::{chosen, limits_of};
use crate::trial::{self, Described, Report, Setting};
use bursar_config::limits;
use bursar_core::policy::{Approvals, Limits};
use bursar_home::Home;
use case::Case;

#[derive(Args)]
pub(in crate::cli) struct Test {
    /// The folder with the cases, each a file NAME.toml
    #[arg(value_name = "DIR")]
    cases: PathBuf,
    /// The file to test [default: the one that bursar.toml names]
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// List the rules that no case reaches
    #[arg(long)]
    coverage: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// `--json`.
#[derive(Serialize)]
struct Results {
    passed: usize,
    failed: usize,
    cases: Vec<Ran>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}

#[derive(Serialize)]
struct Ran {
    case: String,
    passed: bool,
    expected: Expected,
    /// Absent if the case could not be run.
    got: Option<Expected>,
    /// Why it could not be run, or what the refusal says.
    detail: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Expected {
    verdict: String,
    rule: Option<String>,
}

#[derive(Serialize)]
struct Coverage {
    reached: BTreeSet<String>,
    not_reached: BTreeSet<String>,
}

impl Test {
    pub(super) fn run(self, home: &Result<Home, Failure>) -> Result<Exit, Failure> {
        let limits = match &self.with {
            Some(path) => limits_of(path)?,
            None => {
                let (path, text) = chosen(None, home)?;
                let read = text.and_then(|text| limits::parse(&path.display().to_string(), &text));
                read.map_err(|error| Failure::usage(error.to_string()))?
            }
        };
        let mut reached = BTreeSet::new();
        let mut cases = Vec::new();
        for path in cases_in(&self.cases)? {
            let case = Case::load(&path).map_err(|error| Failure::usage(error.to_string()))?;
            cases.push(ran(&path, &case, &limits, &mut reached));
        }
        let failed = cases.iter().filter(|case| !case.passed).count();
        let passed = cases.len() - failed;
        let coverage = self.coverage.then(|| {
            let not_reached = rules(&limits)
                .into_iter()
                .filter(|rule| !reached.contains(rule))
                .collect();
            Coverage { reached, not_reached }
        });
        if self.json {
            print_json(&Results {
                passed,
                failed,
                cases,
                coverage,
            })?;
        } else {
            for case in cases.iter().filter(|case| !case.passed) {
                say!("{}", told(case))?;
            }
            say!("{passed} passed, {failed} failed")?;
            if let Some(coverage) = coverage {
                let all = coverage.reached.len() + coverage.not_reached.len();
                say!("{} of {all} rules reached", coverage.reached.len())?;
                for rule in coverage.not_reached {
                    say!("  not reached: {rule}")?;
                }
            }
        }
        if passed + failed == 0 {
            note!(
                "bursar: {} has no case: no file that ends in .toml",
                self.cases.display()
            );
        }
        Ok(match failed {
            0 => Exit::Done,
            _ => Exit::Negative,
        })
    }
}

fn cases_in(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", dir.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn ran(path: &Path, case: &Case, limits: &Limits, reached: &mut BTreeSet<String>) -> Ran {
    let expected = Expected {
        verdict: case.expect.to_owned(),
        rule: case.rule.clone(),
    };
    let unused = case.spent.unknown(limits, &case.setting.agent);
    let judged = match unused {
        Some(name) => Err(format!(
            "[spent] \"{name}\": the limits of {} have no such budget",
            case.setting.agent
        )),
        None => trial::run(limits, case.approvals, &case.setting, &case.offers, |charge| {
            Some(case.spent.counted(charge))
        }),
    };
    let name = path.display().to_string();
    let (judged, bids) = match judged {
        Ok(judged) => judged,
        Err(why) => {
            return Ran {
                case: name,
                passed: false,
                expected,
                got: None,
                detail: Some(why),
            };
        }
    };
    // What each offer was compared with, not only the one that was taken.
    let looked = judged.trace.purchase.iter().chain(judged.trace.offers.iter().flatten());
    let looked = looked.chain(&judged.trace.budgets).filter(|looked| looked.reached);
    reached.extend(looked.map(|looked| looked.rule.clone()));
    let report = Report::of(&judged, &bids, None);
    let got = Expected {
        verdict: report.verdict,
        rule: report.rule,
    };
    let same_rule = expected.rule.is_none() || expected.rule == got.rule;
    Ran {
        case: name,
        passed: expected.verdict == got.verdict && same_rule,
        expected,
        got: Some(got),
        detail: report.detail,
    }
}

fn told(case: &Ran) -> String {
    let words = |expected: &Expected| match &expected.rule {
        Some(rule) => format!("{} by {rule}", expected.verdict),
        None => expected.verdict.clone(),
    };
    let got = case.got.as_ref().map_or("an error".to_owned(), words);
    let detail = case
        .detail
        .as_ref()
        .map(|detail| format!("\n  {detail}"))
        .unwrap_or_default();
    format!(
        "FAILED {}: expected {}, got {got}{detail}",
        case.case,
        words(&case.expected)
    )
}

/// Every rule that some agent's purchase can meet.
fn rules(limits: &Limits) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for agent in limits.agents() {
        let setting = Setting {
            agent: agent.to_owned(),
            host: "nobody.example".to_owned(),
            method: "GET".to_owned(),
            at: Timestamp::now(),
        };
        let offer = Described {
            amount: "1".to_owned(),
            ..Described::default()
        };
        let judged = trial::run(limits, Approvals::Service, &setting, &[offer], |_| None);
        let Ok((judged, _)) = judged else { continue };
        let looked = judged.trace.purchase.iter().chain(judged.trace.offers.iter().flatten());
        rules.extend(looked.chain(&judged.trace.budgets).map(|looked| looked.rule.clone()));
    }
    rules.extend(limits.rates.0.keys().map(|code| format!("rates.{code}")));
    rules
}
