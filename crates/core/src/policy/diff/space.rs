//! All hosts, methods, offers and payees that the rules of two files can tell apart, each by one example.

use std::collections::BTreeSet;

use http::Method;
use jiff::Timestamp;

use super::super::budget::Unit;
use super::super::imagined::{all_assets, payee_suits, rail_moves, somebody};
use super::super::limits::{Level, Limits, Listed};
use super::super::merchant::HostPattern;
use super::super::patterns::AskedHost;
use super::super::{Bid, MerchantNames, preference};
use super::probe::{Pair, Probe};
use crate::account::Account;
use crate::assets::Asset;
use crate::challenge::{PaymentFlow, Rail};
use crate::money::{Atoms, MicroUsd};

/// What `loose` lets an agent buy; never empty.
pub(super) struct Space {
    /// Allowed by `loose`, and by both if there is such a one.
    host: String,
    method: Method,
    at: Timestamp,
    /// Allowed by `loose` only, with the rule of `strict` that is against it.
    pub new_hosts: Vec<(String, String)>,
    pub new_methods: Vec<Method>,
    pub pairs: Vec<Allowed>,
    /// With a pair to pay them with.
    pub new_payees: Vec<(Account, Pair)>,
    /// Hosts whose challenges `loose` lets name others.
    pub renamed: Vec<String>,
    /// Every amount of money in the agent's rules.
    breaks: BTreeSet<u128>,
    is_host_common: bool,
    is_method_common: bool,
}

/// A rail with an asset that `loose` allows.
pub(super) struct Allowed {
    pub pair: Pair,
    payee: Account,
    /// A payee that both allow.
    common_payee: Option<Account>,
    pub in_strict: bool,
    /// What `strict` has against it.
    pub rule: String,
}

impl Space {
    /// `None` if the agent can buy nothing under `loose`.
    pub(super) fn of(strict: &Limits, loose: &Limits, agent: &str, at: Timestamp) -> Option<Self> {
        let loose_levels = loose.agents.get(agent)?;
        let of_loose: Vec<&Level> = loose.levels(loose_levels).collect();
        if of_loose.iter().any(|level| level.paused) || !loose_levels.has_budget() {
            return None;
        }
        let of_strict: Vec<&Level> = strict
            .agents
            .get(agent)
            .map(|levels| strict.levels(levels).collect())
            .unwrap_or_default();
        let all = || of_strict.iter().chain(&of_loose).copied();

        let hosts = hosts(all());
        let (common, host): (Vec<_>, Vec<_>) = hosts
            .into_iter()
            .filter(|host| host_refused(&of_loose, host).is_none())
            .partition(|host| host_refused(&of_strict, host).is_none());
        let sample_host = common.first().or(host.first())?.clone();
        // One for each rule of `strict` is enough.
        let mut new_hosts: Vec<(String, String)> = Vec::new();
        for host in host {
            let rule = host_refused(&of_strict, &host).unwrap_or_default();
            if !new_hosts.iter().any(|(known, _)| *known == rule) {
                new_hosts.push((rule, host));
            }
        }

        let (both, new_methods): (Vec<_>, Vec<_>) = methods(strict, loose)
            .into_iter()
            .filter(|method| loose.methods.include(method))
            .partition(|method| strict.methods.include(method));
        let method = both.first().or(new_methods.first())?.clone();

        let payees = payees(all());
        let mut pairs: Vec<Allowed> = Vec::new();
        for asset in all_assets() {
            for rail in Rail::ALL.into_iter().filter(|rail| rail_moves(*rail, asset)) {
                let pair = Pair { rail, asset };
                if pair_refused(loose, &of_loose, pair, at).is_some() {
                    continue;
                }
                let allowed =
                    |levels: &[&Level], payee: &Account| levels.iter().all(|level| takes(&level.payees, payee));
                let of_asset = payees.iter().cloned().chain(somebody(asset));
                let payees: Vec<Account> = of_asset
                    .filter(|payee| payee_suits(payee, asset) && allowed(&of_loose, payee))
                    .collect();
                let common_payee = payees.iter().find(|payee| allowed(&of_strict, payee)).cloned();
                let Some(payee) = common_payee.clone().or(payees.first().cloned()) else {
                    continue;
                };
                let refused = pair_refused(strict, &of_strict, pair, at);
                let in_strict = refused.is_none();
                let rule = refused.unwrap_or_default();
                let is_known = |known: &Allowed| !known.in_strict && known.rule == rule;
                if !in_strict && pairs.iter().any(is_known) {
                    continue;
                }
                pairs.push(Allowed {
                    pair,
                    payee,
                    common_payee,
                    in_strict,
                    rule,
                });
            }
        }
        if pairs.is_empty() {
            return None;
        }
        let new_payees = new_payees(&payees, &pairs, &of_strict, &of_loose);
        Some(Self {
            host: sample_host,
            method,
            at,
            new_hosts,
            new_methods,
            pairs,
            new_payees,
            renamed: renamed(strict, loose, &of_loose),
            breaks: breaks(all()),
            is_host_common: !common.is_empty(),
            is_method_common: !both.is_empty(),
        })
    }

    /// A pair that both files allow for a host, a method and a payee that both allow, preferably in dollars of six decimals.
    pub(super) fn common(&self) -> Option<Pair> {
        if !self.is_host_common || !self.is_method_common {
            return None;
        }
        let common = self
            .pairs
            .iter()
            .filter(|pair| pair.in_strict && pair.common_payee.is_some());
        let best = common.min_by_key(|allowed| {
            let asset = allowed.pair.asset;
            (!asset.is_dollar(), asset.decimals() < 6, asset.decimals())
        });
        best.map(|allowed| allowed.pair)
    }

    pub(super) fn probe(&self, pair: Pair, atoms: u128) -> Probe {
        let allowed = self.pairs.iter().find(|allowed| allowed.pair == pair);
        let payee = allowed.map(|allowed| allowed.payee.clone());
        Probe {
            host: self.host.clone(),
            method: self.method.clone(),
            at: self.at,
            pair,
            payee: payee
                .or_else(|| somebody(pair.asset))
                .unwrap_or(Account::Address(Default::default())),
            atoms,
            before: Vec::new(),
            payee_known: true,
        }
    }

    pub(super) fn common_probe(&self, pair: Pair, atoms: u128) -> Probe {
        self.probe(pair, atoms)
    }

    /// The amounts of the pair's asset just below and just above every amount of money in the rules.
    pub(super) fn amounts(&self, pair: Pair, strict: &Limits) -> Vec<u128> {
        let asset = pair.asset;
        let unit = 10u128.checked_pow(u32::from(asset.decimals())).unwrap_or(u128::MAX);
        let rate = match asset.is_dollar() {
            true => 1_000_000,
            false => strict
                .rates
                .0
                .get(asset.currency().code)
                .map_or(1_000_000, |rate| rate.usd.get().max(1)),
        };
        let around = |micros: &u128| {
            // Rounded prices: two steps to each side are always enough.
            let atoms = micros.checked_mul(unit).map(|product| product / rate);
            atoms.into_iter().flat_map(|atoms| {
                (0..=2).flat_map(move |step| [atoms.saturating_sub(step), atoms.saturating_add(step)])
            })
        };
        let mut amounts: Vec<u128> = self.breaks.iter().flat_map(around).chain([0, 1]).collect();
        amounts.sort_unstable();
        amounts.dedup();
        amounts
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }
}

/// One host for each set of entries that a host can be on, and one that is on none: beside the names themselves, a name that
/// nobody wrote below each `*.name`.
fn hosts<'l>(levels: impl Iterator<Item = &'l Level>) -> Vec<String> {
    const NOBODY_WROTE: &str = "zz-any";
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    let mut listed = Vec::new();
    for level in levels {
        let lists = &level.merchants;
        listed.extend(
            lists
                .allow
                .iter()
                .flat_map(|allow| allow.iter())
                .chain(lists.deny.iter()),
        );
    }
    for pattern in listed {
        match pattern {
            HostPattern::Exact(host) => {
                hosts.insert(host.to_string());
            }
            HostPattern::Below(apex) => {
                hosts.insert(apex.to_string());
                hosts.insert(format!("{NOBODY_WROTE}.{apex}"));
            }
        }
    }
    hosts.insert(format!("{NOBODY_WROTE}.example"));
    hosts.insert("zz-any-shop".to_owned());
    hosts.into_iter().rev().collect()
}

/// The rule that is against this host.
fn host_refused(levels: &[&Level], host: &str) -> Option<String> {
    let host = AskedHost::new(host);
    levels.iter().find_map(|level| {
        let lists = &level.merchants;
        if lists.deny.first(&host).is_some() {
            return Some(format!("{}.merchants.deny", level.section));
        }
        let left_out = lists.allow.as_ref().is_some_and(|allow| allow.first(&host).is_none());
        left_out.then(|| format!("{}.merchants.allow", level.section))
    })
}

fn methods(strict: &Limits, loose: &Limits) -> Vec<Method> {
    use super::super::Methods;
    let mut methods = vec![
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
    ];
    methods.extend(Method::from_bytes(b"ZZ-ANY").ok());
    for limits in [strict, loose] {
        if let Methods::Only(listed) = &limits.methods {
            methods.extend(listed.iter().cloned());
        }
    }
    methods
}

fn payees<'l>(levels: impl Iterator<Item = &'l Level>) -> Vec<Account> {
    let listed = levels.flat_map(|level| level.payees.allow.iter().flatten().chain(&level.payees.deny));
    listed.cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn takes(lists: &Listed<Account>, payee: &Account) -> bool {
    let is = |entry: &Account| entry == payee;
    lists.denied_by(is).is_none() && !lists.leaves_out(is)
}

/// Payees that only `loose` allows.
fn new_payees(listed: &[Account], pairs: &[Allowed], strict: &[&Level], loose: &[&Level]) -> Vec<(Account, Pair)> {
    let mut new = Vec::new();
    let allowed = |levels: &[&Level], payee: &Account| levels.iter().all(|level| takes(&level.payees, payee));
    for kind in [true, false] {
        let Some(pair) = pairs
            .iter()
            .find(|allowed| matches!(allowed.pair.asset, Asset::Token(_)) == kind)
        else {
            continue;
        };
        let asset = pair.pair.asset;
        let of_kind = listed
            .iter()
            .cloned()
            .chain(somebody(asset))
            .filter(|payee| payee_suits(payee, asset));
        let only_loose = of_kind.filter(|payee| allowed(loose, payee) && !allowed(strict, payee));
        new.extend(only_loose.take(1).map(|payee| (payee, pair.pair)));
    }
    new
}

/// What stands against paying with this rail in this asset at all. Of a rate only whether it holds counts here.
fn pair_refused(limits: &Limits, levels: &[&Level], pair: Pair, at: Timestamp) -> Option<String> {
    if levels.is_empty() {
        return Some("agents".to_owned());
    }
    if preference(limits, pair.rail).is_none() {
        return Some("rails".to_owned());
    }
    let price = limits.rates.price_of(pair.asset, Atoms::new(0), at);
    if price.is_err() {
        return Some(format!("rates.{}", pair.asset.currency().code));
    }
    let network = pair.asset.network();
    let bid = Bid {
        rail: pair.rail,
        asset: pair.asset,
        payee: Account::Address(Default::default()),
        price: Ok(MicroUsd::ZERO),
        flow: PaymentFlow::Authorization,
    };
    levels.iter().find_map(|level| {
        if level
            .networks
            .as_ref()
            .is_some_and(|networks| !networks.contains(&network))
        {
            return Some(format!("{}.networks", level.section));
        }
        let assets = level.assets.as_ref();
        let left_out = assets.is_some_and(|assets| !assets.iter().any(|asset| asset.names(&bid)));
        left_out.then(|| format!("{}.assets", level.section))
    })
}

fn renamed(strict: &Limits, loose: &Limits, of_loose: &[&Level]) -> Vec<String> {
    let none = MerchantNames::default();
    let hosts: BTreeSet<&str> = strict
        .merchants
        .keys()
        .chain(loose.merchants.keys())
        .map(|host| host.as_str())
        .collect();
    let looser = |host: &&str| {
        let of = |limits: &Limits| limits.names_of(host).cloned().unwrap_or_else(|| none.clone());
        let (strict, loose) = (of(strict), of(loose));
        let more_hosts = loose
            .resource_hosts
            .iter()
            .any(|name| !strict.resource_hosts.contains(name));
        let pins = !strict.realms.is_empty();
        let more_realms = pins && (loose.realms.is_empty() || loose.realms.iter().any(|r| !strict.realms.contains(r)));
        (more_hosts || more_realms) && host_refused(of_loose, host).is_none()
    };
    hosts.into_iter().filter(looser).map(str::to_owned).collect()
}

fn breaks<'l>(levels: impl Iterator<Item = &'l Level>) -> BTreeSet<u128> {
    let mut breaks = BTreeSet::new();
    for level in levels {
        let prices = [level.per_transaction, level.asking.above, level.asking.second_above];
        breaks.extend(prices.into_iter().flatten().map(MicroUsd::get));
        let money = level.budgets.iter().filter(|budget| budget.unit() == Unit::MicroUsd);
        breaks.extend(money.map(|budget| budget.cap()));
    }
    breaks
}
