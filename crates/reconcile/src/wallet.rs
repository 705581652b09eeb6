//! The search for money that left the wallet without a payment by bursar, from where the last search ended up to the
//! final block.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use alloy_primitives::Address;

use super::cursor::{Cursors, Searched};
use super::evidence::Finality;
use super::outflow::{Borne, Outflow, outflows};
use super::pass::{Heads, OnProgress, Progress};
use super::reconciler::{Notice, Reconciler};
use super::report::{OutflowLine, Report, Unsearched};
use super::testimony::Head;
use bursar_core::assets::Network;
use bursar_core::money::Atoms;
use bursar_ledger::findings::Findings;
use bursar_ledger::{Event, Outflow as Recorded};
use bursar_rails::rpc::Block;

/// Blocks per step. The cursor moves after each step, so an interrupted search over months need not start over.
const STEP: u64 = 100_000;
/// Our clock may be ahead of the chain's.
const CLOCK_SLACK_S: u64 = 600;

/// One wallet on one network.
struct Search<'a> {
    network: Network,
    wallet: Address,
    finality: &'a Finality<'a>,
    head: Block,
}

/// A block to ask for.
#[derive(Clone, Copy)]
enum Sought {
    /// The first one at that Unix second or later.
    FirstAt(u64),
    Block(u64),
}

impl Reconciler {
    /// Reads the part of the journal that the coming search needs, on a blocking thread.
    pub async fn findings(&self) -> Result<Findings, String> {
        let (home, cursors) = (self.home.clone(), Cursors::load(self.home.reconciled()));
        let searched = move |network: &str, wallet| cursors.named(network, wallet).map_or(0, |searched| searched.time);
        let reading = tokio::task::spawn_blocking(move || Findings::read(home.root(), searched)).await;
        let findings = reading.map_err(|error| error.to_string())?;
        findings.map_err(|error| error.to_string())
    }

    /// Searches every wallet of ours on every network with nodes. What is found is in the ledger when this returns.
    /// `findings` must be read after `heads`, so that they include every payment that a block up to a head can contain.
    pub async fn outflows(&self, findings: &mut Findings, heads: &Heads<'_>, on_progress: OnProgress<'_>) -> Report {
        let mut report = Report::default();
        let mut cursors = Cursors::load(self.home.reconciled());
        for (&network, finality) in heads {
            let mut unsearched = |why: String| {
                let network = network.to_string();
                report.unsearched.push(Unsearched { network, why });
            };
            let head = match finality.head() {
                Head::Agreed(head) => head,
                Head::Forked(block) => {
                    unsearched(format!("the nodes disagree about block {block}"));
                    continue;
                }
                Head::Unknown => {
                    let why = finality.silent().first().map(|silent| silent.why.clone());
                    unsearched(why.unwrap_or_else(|| "no node answered".to_owned()));
                    continue;
                }
            };
            for wallet in self.wallets(network, findings) {
                let search = Search {
                    network,
                    wallet,
                    finality,
                    head,
                };
                match self.search(&search, findings, &mut cursors, on_progress).await {
                    Ok(found) => report.outflows.extend(found),
                    Err(why) => unsearched(why),
                }
            }
        }
        report
    }

    fn wallets(&self, network: Network, findings: &Findings) -> BTreeSet<Address> {
        let network = network.to_string();
        let signed = findings.wallets.iter().filter(|(of, _)| *of == network);
        signed.map(|(_, wallet)| *wallet).chain(self.wallet).collect()
    }

    async fn search(
        &self,
        search: &Search<'_>,
        findings: &mut Findings,
        cursors: &mut Cursors,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<OutflowLine>, String> {
        let Search {
            network, wallet, head, ..
        } = *search;
        let mut lines = Vec::new();
        let first = match cursors.of(network, wallet) {
            Some(searched) => Some(searched.block.saturating_add(1)),
            None => self.first_block(search, findings).await?,
        };
        let Some(mut first) = first else { return Ok(lines) };
        while first <= head.number {
            let last = head.number.min(first.saturating_add(STEP - 1));
            on_progress(Progress::Blocks {
                network,
                block: first,
                last: head.number,
            });
            let found = self.step(search, findings, first..=last).await?;
            for outflow in found {
                lines.extend(self.left(network, &outflow, findings).await?);
            }
            let time = match last == head.number {
                true => head.timestamp,
                false => {
                    let block = self.ask(search, Sought::Block(last)).await?;
                    block.map_or(0, |block| block.timestamp)
                }
            };
            let searched = Searched { block: last, time };
            if let Err(error) = cursors.advance(network, wallet, searched) {
                // These blocks are searched again next time, and nothing is recorded twice.
                tracing::warn!(
                    %error,
                    "could not save how far the wallet was searched; the next search repeats these blocks"
                );
            }
            first = last.saturating_add(1);
        }
        Ok(lines)
    }

    /// The block at which the ledger begins. `None` if it begins after the final block.
    async fn first_block(&self, search: &Search<'_>, findings: &Findings) -> Result<Option<u64>, String> {
        let Some(began) = findings.began else { return Ok(None) };
        let began = u64::try_from(began.as_second())
            .unwrap_or(0)
            .saturating_sub(CLOCK_SLACK_S);
        let block = self.ask(search, Sought::FirstAt(began)).await?;
        Ok(block.map(|block| block.number))
    }

    /// Asks the nodes in turn until one answers.
    async fn ask(&self, search: &Search<'_>, sought: Sought) -> Result<Option<Block>, String> {
        let mut why = "no node answered".to_owned();
        for node in search.finality.witnesses() {
            let asking = async {
                match sought {
                    Sought::FirstAt(time) => node.first_block_at(&self.tls, time, &search.head).await,
                    Sought::Block(number) => node.block(&self.tls, number).await.map(Some),
                }
            };
            match self.stop.run_until_cancelled(asking).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => why = error.to_string(),
                None => return Err("the search was interrupted".to_owned()),
            }
        }
        Err(why)
    }

    async fn step(
        &self,
        search: &Search<'_>,
        findings: &Findings,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Outflow>, String> {
        let Search { network, wallet, .. } = *search;
        let known = |nonce: &_, outflow: &Outflow| {
            let asset = outflow.asset.caip19();
            atoms(outflow).is_some_and(|amount| findings.count(&asset, &wallet, nonce, outflow.to, amount))
        };
        let borne = |input: &[u8], outflow: &Outflow| match atoms(outflow) {
            Some(amount) => findings.borne(input, &outflow.asset.caip19(), &wallet, outflow.to, amount),
            None => Vec::new(),
        };
        let borne: Option<Borne<'_>> = if findings.has_permits_on(&network.to_string()) {
            Some(&borne)
        } else {
            None
        };
        let witnesses = search.finality.witnesses();
        let asking = outflows(&self.tls, network, witnesses, wallet, blocks, known, borne);
        let left = self.stop.run_until_cancelled(asking).await;
        let left = left.ok_or_else(|| "the search was interrupted".to_owned())?;
        if left.searched_by == 0 {
            let why = left.silent.first().map(|silent| silent.why.clone());
            return Err(why.unwrap_or_else(|| "no node answered".to_owned()));
        }
        Ok(left.found)
    }

    /// Records a transfer, unless it is already recorded.
    async fn left(
        &self,
        network: Network,
        outflow: &Outflow,
        findings: &mut Findings,
    ) -> Result<Option<OutflowLine>, String> {
        let recorded = Recorded {
            asset: outflow.asset.caip19(),
            network: network.to_string(),
            symbol: outflow.asset.symbol.to_owned(),
            // No token of ours has that many atoms.
            amount: atoms(outflow).unwrap_or(Atoms::new(u128::MAX)),
            payee: outflow.to,
            tx: outflow.tx,
            log_index: outflow.log_index,
            block: outflow.block,
        };
        if findings.has(&recorded.network, &recorded.tx, recorded.log_index) {
            return Ok(None);
        }
        let entry = Event::Outflow(recorded.clone());
        self.ledger
            .append(entry)
            .await
            .map_err(|error| format!("a transfer could not be recorded: {error}"))?;
        tracing::error!(
            %network, symbol = recorded.symbol, atoms = %outflow.amount, to = %outflow.to, tx = %outflow.tx,
            "money left the wallet without a payment by bursar"
        );
        let now = self.clock.now();
        findings.outflows.push((now, recorded.clone()));
        let line = OutflowLine::of(&recorded, now);
        (self.notices)(Notice::Outflow(recorded));
        Ok(Some(line))
    }
}

fn atoms(outflow: &Outflow) -> Option<Atoms> {
    outflow.amount.try_into().ok().map(Atoms::new)
}

#[cfg(test)]
mod tests;
