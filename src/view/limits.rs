//! The limits in force and how far each is used, as `limits show` prints them (R260).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::admin::{Paused, hex};
use bursar_config::diagnose::nearest;
use bursar_core::money::MicroUsd;
use bursar_core::policy::{self, AgentLevels, Charge, Excess, Limits, PauseScope, Unit, Window};
use bursar_ledger::Standing;

/// `limits show --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LimitsView {
    pub file: String,
    pub sha256: String,
    /// In which days begin.
    pub zone: String,
    /// The time for which the numbers hold.
    pub at: Timestamp,
    /// The newest entry that is counted; absent on a ledger that several proxies share, and before the first entry.
    pub as_of: Option<u64>,
    /// Why the file as it is now is not in force; then the rest shows the limits of before.
    pub rejected: Option<String>,
    pub pauses: Vec<Paused>,
    /// From the account down.
    pub sections: Vec<SectionView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Account,
    Group,
    Agent,
}

/// One section of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SectionView {
    pub level: Level,
    /// Empty for the account.
    pub name: String,
    /// Of an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Why this agent can pay nothing, whatever was spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_spend: Option<String>,
    pub budgets: Vec<BudgetView>,
    pub rules: Vec<RuleView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleView {
    pub rule: String,
    pub value: String,
}

/// One cap, and what counts against it now. Figures are US dollars (`5.00`) or payments (`200`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BudgetView {
    pub scope: String,
    pub rule: String,
    pub window: String,
    /// `usd` or `payments`.
    pub unit: String,
    pub limit: String,
    pub settled: String,
    /// `held`, `armed` and `unknown` together. They are absent if the ledger's payments do not add up to it.
    pub open: String,
    pub held: Option<String>,
    pub armed: Option<String>,
    pub unknown: Option<String>,
    pub left: String,
    pub start: String,
    /// Absent where no moment empties the window.
    pub resets_at: Option<Timestamp>,
    /// What happens to a payment that does not fit: `denied` or `asked`.
    pub excess: String,
}

/// In the budget's unit, for a bar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub limit: u128,
    pub settled: u128,
    pub in_doubt: u128,
    pub held: u128,
}

/// Which sections somebody wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Everything,
    Account,
    Group(String),
    Agent(String),
}

/// What else the view says beside the limits.
pub(crate) struct Seen<'a> {
    pub file: String,
    pub rejected: Option<String>,
    pub at: Timestamp,
    pub pauses: Vec<Paused>,
    pub standing: &'a Standing,
}

impl Asked {
    /// `account`, an agent, a group, or as in the file `agents.NAME`, `groups.NAME`. A name of both kinds is the agent's.
    pub(crate) fn read(name: Option<&str>, limits: &Limits) -> Result<Self, String> {
        let Some(name) = name else {
            return Ok(Self::Everything);
        };
        let groups = limits.groups();
        let is_agent = |name: &str| limits.agents.contains_key(name);
        let is_group = |name: &str| groups.contains_key(name);
        match name {
            "account" => return Ok(Self::Account),
            name if is_agent(name) => return Ok(Self::Agent(name.to_owned())),
            name if is_group(name) => return Ok(Self::Group(name.to_owned())),
            _ => {}
        }
        if let Some(agent) = name.strip_prefix("agents.").filter(|agent| is_agent(agent)) {
            return Ok(Self::Agent(agent.to_owned()));
        }
        if let Some(group) = name.strip_prefix("groups.").filter(|group| is_group(group)) {
            return Ok(Self::Group(group.to_owned()));
        }
        let known = limits.agents().chain(groups.keys().copied());
        let meant = nearest(name, known).map(|meant| format!(" Did you mean {meant}?"));
        Err(format!(
            "limits.toml has no agent and no group {name}.{}",
            meant.unwrap_or_else(|| " `bursar limits show` lists all.".to_owned())
        ))
    }

    fn sections<'l>(&self, limits: &'l Limits) -> Vec<Section<'l>> {
        let account = Section {
            level: Level::Account,
            name: "",
            written: &limits.account,
            agent: None,
        };
        let groups = limits.groups();
        let group = |name: &'l str, written: &'l policy::Level| Section {
            level: Level::Group,
            name,
            written,
            agent: None,
        };
        let agents: BTreeMap<&str, &AgentLevels> = limits
            .agents
            .iter()
            .map(|(name, levels)| (name.as_str(), levels))
            .collect();
        let agent = |(name, levels): (&&'l str, &&'l AgentLevels)| Section {
            level: Level::Agent,
            name,
            written: &levels.level,
            agent: Some(levels),
        };
        let mut sections = vec![account];
        match self {
            Self::Everything => {
                sections.extend(groups.iter().map(|(name, level)| group(name, level)));
                sections.extend(agents.iter().map(agent));
            }
            Self::Account => {}
            Self::Group(name) => sections.extend(groups.get_key_value(&**name).map(|(name, level)| group(name, level))),
            Self::Agent(name) => {
                let own = agents.get_key_value(&**name);
                let of_group = own.and_then(|(_, levels)| levels.group.as_ref());
                sections.extend(of_group.map(|own| group(&own.name, &own.level)));
                sections.extend(own.map(agent));
            }
        }
        sections
    }

    /// Charges of nothing that name the counters of every cap that is shown.
    pub(crate) fn charges(&self, limits: &Limits, now: Timestamp) -> Vec<Charge> {
        let sections = self.sections(limits);
        sections
            .iter()
            .flat_map(|section| limits.caps(section.written, now))
            .collect()
    }

    fn concerns(&self, scope: &PauseScope, limits: &Limits) -> bool {
        match (self, scope) {
            (Self::Everything | Self::Account, _) | (_, PauseScope::All | PauseScope::Merchant(_)) => true,
            (Self::Group(name), PauseScope::Group(paused)) => name == paused,
            (Self::Group(name), PauseScope::Agent(paused)) => limits.group_of(paused) == Some(name),
            (Self::Agent(name), PauseScope::Agent(paused)) => name == paused,
            (Self::Agent(name), PauseScope::Group(paused)) => limits.group_of(name) == Some(paused),
        }
    }
}

struct Section<'l> {
    level: Level,
    name: &'l str,
    written: &'l policy::Level,
    agent: Option<&'l AgentLevels>,
}

impl LimitsView {
    /// Fails if the ledger cannot say what one of the caps is compared with: then no number is shown.
    pub(crate) fn of(limits: &Limits, asked: &Asked, seen: Seen<'_>) -> Result<Self, String> {
        let Seen {
            file,
            rejected,
            at,
            pauses,
            standing,
        } = seen;
        let sections = asked.sections(limits).into_iter().map(|section| {
            let caps = limits.caps(section.written, at).into_iter();
            let budgets: Result<Vec<_>, _> = caps.map(|cap| BudgetView::of(&cap, standing)).collect();
            let rules = section.written.written().into_iter();
            Ok(SectionView {
                level: section.level,
                name: section.name.to_owned(),
                group: section
                    .agent
                    .and_then(|levels| Some(levels.group.as_ref()?.name.to_string())),
                cannot_spend: section.agent.and_then(|levels| limits.cannot_spend(levels)),
                budgets: budgets?,
                rules: rules
                    .map(|policy::Written { rule, value }| RuleView { rule, value })
                    .collect(),
            })
        });
        Ok(Self {
            file,
            sha256: hex(&limits.sha256),
            zone: limits.calendar.zone_name().to_owned(),
            at,
            as_of: standing.as_of(),
            rejected,
            pauses: pauses
                .into_iter()
                .filter(|pause| asked.concerns(&pause.scope, limits))
                .collect(),
            sections: sections.collect::<Result<_, String>>()?,
        })
    }
}

impl BudgetView {
    fn of(cap: &Charge, standing: &Standing) -> Result<Self, String> {
        let unseen = || {
            format!(
                "what counts against {} is not known: by the ledger's time its window is over. Look at the log of `bursar \
                 serve` for the clock",
                cap.rule
            )
        };
        let counted = standing.counted(cap).ok_or_else(unseen)?;
        let open = standing.open(cap);
        let used = counted.settled.checked_add(counted.open).ok_or_else(unseen)?;
        let figure = |value| cap.unit.figure(value);
        Ok(Self {
            scope: cap.scope.to_string(),
            rule: cap.rule.to_string(),
            window: match cap.window {
                Window::Rolling(rolling) => length(rolling.seconds()),
                window => window.name().to_owned(),
            },
            unit: match cap.unit {
                Unit::MicroUsd => "usd".to_owned(),
                Unit::Payments => "payments".to_owned(),
            },
            limit: figure(cap.cap),
            settled: figure(counted.settled),
            open: figure(counted.open),
            held: open.map(|open| figure(open.held)),
            armed: open.map(|open| figure(open.armed)),
            unknown: open.map(|open| figure(open.unknown)),
            left: figure(cap.cap.saturating_sub(used)),
            start: cap.start.to_string(),
            resets_at: cap.ends.filter(|_| cap.window.is_calendar()),
            excess: match cap.excess {
                Excess::Denied => "denied".to_owned(),
                Excess::Asked | Excess::Approved => "asked".to_owned(),
            },
        })
    }
}

impl BudgetView {
    /// Its figures as numbers; `None` if they came from a server that writes them otherwise.
    pub(crate) fn parts(&self) -> Option<Parts> {
        let number = |figure: &str| match self.unit.as_str() {
            "usd" => MicroUsd::parse(figure).ok().map(MicroUsd::get),
            _ => figure.parse().ok(),
        };
        let held = self.held.as_deref().map_or(Some(0), number)?;
        Some(Parts {
            limit: number(&self.limit)?,
            settled: number(&self.settled)?,
            in_doubt: number(&self.open)?.checked_sub(held)?,
            held,
        })
    }
}

/// `24h`, `90m`.
fn length(seconds: u32) -> String {
    match seconds {
        seconds if seconds.is_multiple_of(86_400) && seconds > 86_400 => format!("{}d", seconds / 86_400),
        seconds if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        seconds => format!("{}m", seconds / 60),
    }
}
