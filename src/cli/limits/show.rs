//! `bursar limits show`: the limits in force, the section that each comes from, and how far the budgets are used.

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::super::output::{note, print_exact, print_json};
use super::super::reach::Reach;
use super::super::table::{Colour, Look, Side, columns, places};
use super::super::{Exit, Failure, journal, pause};
use crate::admin::{self, AdminError, Paused, Show as Question};
use crate::config::Config;
use crate::config::operator::Store;
use crate::view::{Asked, BudgetView, Level, LimitsView, SectionView, Seen};
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_ledger::{Standing, read_standing};

/// The widest bar.
const BAR: usize = 20;
/// A narrower one says nothing.
const LEAST_BAR: usize = 8;

#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 shown; 1 the journal is damaged, or the server could not read its ledger; 2 no such agent or group, or a mistake in
limits.toml; 3 shown, but the journal could not be compared with what was signed; 5 no server where one is needed. Without the
ledger no number is shown.")]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    reach: Reach,
    /// An agent, a group, or `account` [default: all]
    #[arg(value_name = "AGENT|GROUP|account")]
    name: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let place = self.reach.place(home)?;
        let question = Question {
            name: self.name.clone(),
        };
        let (view, exit) = match admin::show(&place.door(), &question).await {
            Ok(view) => (view, Exit::Done),
            Err(AdminError::NoServer) => offline(place.without_server()?, self.name.as_deref())?,
            Err(AdminError::Refused(why)) => return Err(Failure::usage(why)),
            Err(error) => return Err(place.failed(error)),
        };
        if self.json {
            print_json(&view)?;
            return Ok(exit);
        }
        if let Some(why) = &view.rejected {
            note!(
                "bursar: the file as it is now is not in force: {why}. The limits of before, shown here, stay in force until it \
                 is right; `bursar limits check` shows every mistake."
            );
        }
        print_exact(&text(&view, Look::of_stdout()))?;
        Ok(exit)
    }
}

/// Without a server the journal is replayed; a ledger in a database cannot be seen.
fn offline(home: &Home, name: Option<&str>) -> Result<(LimitsView, Exit), Failure> {
    let config = Config::load(home.root()).map_err(|error| Failure::usage(error.to_string()))?;
    if !matches!(config.store, Store::Embedded) {
        return Err(Failure::unavailable(
            "this directory's ledger is in a database, which only a running server reads; start `bursar serve` and repeat \
             this command",
        ));
    }
    let limits = config
        .limits
        .load()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let asked = Asked::read(name, &limits).map_err(Failure::usage)?;
    let at = Timestamp::now();
    let (standing, exit): (Standing, Exit) = journal::read(read_standing(home.root(), &asked.charges(&limits, at)))?;
    let seen = Seen {
        file: config.limits.path().display().to_string(),
        rejected: None,
        at,
        pauses: standing
            .pauses()
            .iter()
            .map(|pause| Paused::of(pause.clone(), true))
            .collect(),
        standing: &standing,
    };
    let view = LimitsView::of(&limits, &asked, seen).map_err(Failure::negative)?;
    note!("bursar: no server is running, so these limits are in force from its next start.");
    Ok((view, exit))
}

fn text(view: &LimitsView, look: Look) -> String {
    let zone = TimeZone::get(&view.zone).unwrap_or(TimeZone::UTC);
    let local = |at: Timestamp| at.to_zoned(zone.clone());
    let entry = view.as_of.map(|seq| format!(", entry {seq}")).unwrap_or_default();
    let digest: String = view.sha256.chars().take(12).collect();
    let mut out = format!(
        "{} {digest}…{entry}, {}, {}\n",
        plain(&view.file),
        local(view.at).strftime("%Y-%m-%d %H:%M:%S"),
        plain(&view.zone),
    );
    for paused in &view.pauses {
        let sentence = pause::sentence(paused);
        out += &format!("{}\n", look.coloured(&plain(&sentence), Colour::Warning));
    }
    let mut has_bars = false;
    for section in &view.sections {
        out += &format!("\n{}\n", plain(&title(section)));
        if let Some(why) = &section.cannot_spend {
            let why = format!("  cannot spend: {why}");
            out += &format!("{}\n", look.coloured(&plain(&why), Colour::Warning));
        }
        let lines = budgets(&section.budgets, &zone, view.at, look);
        has_bars |= !lines.is_empty();
        let rules: Vec<Vec<String>> = section
            .rules
            .iter()
            .map(|rule| vec![rule.rule.clone(), rule.value.clone()])
            .collect();
        let rules = columns(&rules, &[Side::Left, Side::Left]);
        let rules = rules.iter().map(|line| plain(line).into_owned());
        for line in lines.into_iter().chain(rules) {
            out += &format!("  {line}\n");
        }
        if section.budgets.is_empty() && section.rules.is_empty() {
            out += "  nothing is written here\n";
        }
    }
    if has_bars {
        let legend = [
            (Colour::Settled, "# settled"),
            (Colour::Doubt, ": signed, outcome open"),
            (Colour::Held, "- held for an approval"),
        ];
        let legend: Vec<String> = legend
            .iter()
            .map(|(colour, text)| look.coloured(text, *colour))
            .collect();
        out += &format!("\n{}\n", legend.join("   "));
    }
    out
}

fn title(section: &SectionView) -> String {
    match (section.level, &section.group) {
        (Level::Account, _) => "account".to_owned(),
        (Level::Group, _) => format!("group {}", section.name),
        (Level::Agent, Some(group)) => format!("{} (group {group})", section.name),
        (Level::Agent, None) => section.name.clone(),
    }
}

/// One line for each budget: `day  [####..]  2.31 of 5.00  2.69 left  resets 00:00  agents.research.day`.
fn budgets(budgets: &[BudgetView], zone: &TimeZone, now: Timestamp, look: Look) -> Vec<String> {
    const SIDES: [Side; 6] = [
        Side::Left,
        Side::Right,
        Side::Right,
        Side::Right,
        Side::Left,
        Side::Left,
    ];
    let rows: Vec<Vec<String>> = budgets
        .iter()
        .map(|budget| {
            vec![
                label(budget),
                used(budget),
                format!("of {}", budget.limit),
                format!("{} left", budget.left),
                resets(budget, zone, now),
                budget.rule.clone(),
            ]
        })
        .collect();
    // Without colours and bars first: colours take no place on the screen.
    let lines = columns(&rows, &SIDES);
    let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let labels = rows
        .iter()
        .filter_map(|row| row.first())
        .map(|label| label.chars().count());
    let labels = labels.max().unwrap_or(0);
    // Two spaces before the line, two before the bar, and its brackets.
    let room = look.width.saturating_sub(longest + 6).min(BAR);
    lines
        .iter()
        .zip(budgets)
        .map(|(line, budget)| {
            let (label, rest) = line.split_at(line.char_indices().nth(labels).map_or(line.len(), |(at, _)| at));
            match bar(budget, room, look).filter(|_| room >= LEAST_BAR) {
                Some(bar) => format!("{}  {bar}{}", plain(label), plain(rest)),
                None => plain(line).into_owned(),
            }
        })
        .collect()
}

fn label(budget: &BudgetView) -> String {
    let window = match budget.window.as_str() {
        "max_pending" => "pending",
        "approval_every" => "unapproved",
        window => window,
    };
    match budget.unit.as_str() {
        "usd" => window.to_owned(),
        _ => format!("count {window}"),
    }
}

/// What counts against the limit.
fn used(budget: &BudgetView) -> String {
    use bursar_core::policy::Unit;
    let Some(parts) = budget.parts() else {
        return "?".to_owned();
    };
    let unit = match budget.unit.as_str() {
        "usd" => Unit::MicroUsd,
        _ => Unit::Payments,
    };
    let sum = parts.settled.saturating_add(parts.in_doubt).saturating_add(parts.held);
    unit.figure(sum)
}

fn resets(budget: &BudgetView, zone: &TimeZone, now: Timestamp) -> String {
    let Some(at) = budget.resets_at else {
        return match budget.window.as_str() {
            "total" => "never resets".to_owned(),
            "max_pending" => "at one time".to_owned(),
            "approval_every" => "until an approval".to_owned(),
            _ => "rolling".to_owned(),
        };
    };
    let local = at.to_zoned(zone.clone());
    match at.duration_since(now).as_hours() {
        ..24 => format!("resets {}", local.strftime("%H:%M")),
        _ => format!("resets {}", local.strftime("%Y-%m-%d")),
    }
}

fn bar(budget: &BudgetView, width: usize, look: Look) -> Option<String> {
    let parts = budget.parts()?;
    let places = places(&[parts.settled, parts.in_doubt, parts.held], parts.limit, width);
    let [settled, in_doubt, held] = places[..] else {
        return None;
    };
    let free = width.checked_sub(settled + in_doubt + held)?;
    Some(format!(
        "[{}{}{}{}]",
        look.coloured(&"#".repeat(settled), Colour::Settled),
        look.coloured(&":".repeat(in_doubt), Colour::Doubt),
        look.coloured(&"-".repeat(held), Colour::Held),
        ".".repeat(free)
    ))
}
