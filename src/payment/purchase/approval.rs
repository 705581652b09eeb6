//! A purchase that needs a person's approval: the money is held, the question asked, and only what was approved is
//! armed, on the terms that are current then (R39 to R43).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::record::terms;
use super::{Agent, Declined, NotBought, Purchase, Unread, planned};
use crate::answer::{Code, Problem, Unpaid};
use crate::payment::consider::{Disposition, PurchasePlan};
use crate::payment::forward::send_again;
use bursar_approvals::Denial;
use bursar_approvals::questions::{
    Bound, Known, NoApprover, NotAsked, Over, Questions, Stage, Taken, Wait, Wanted, Withdrawn,
};
use bursar_core::approval::ApprovalIntent;
use bursar_core::approval::intent::Asked;
use bursar_core::challenge::Offer;
use bursar_core::policy::Excess;
use bursar_core::prefer;
use bursar_ledger::{Arming, LedgerError, PaymentId, Reservation, ReserveError};
use bursar_net::upstream::stream;
use bursar_rails::pay::Permission;

/// After this long the site is asked for its terms again (R41).
const FRESH: Duration = Duration::from_secs(30);
/// How soon an agent should come back.
const COME_BACK: Duration = Duration::from_secs(5);

impl Purchase {
    /// The rule that a person may override, if nothing else prevents this payment.
    pub(super) fn asks_over(&self, error: &ReserveError) -> Option<NotBought> {
        let ReserveError::Denied { charge, .. } = *error else {
            return None;
        };
        let charge = self.plan.decided.charges.get(charge)?;
        (charge.excess == Excess::Asked).then(|| NotBought::MustAsk(vec![charge.rule.clone()]))
    }

    /// A question about exactly these terms that is open or was denied a moment ago also applies to this request, even
    /// if current spending would need no approval: the money that it holds would stand against the repeat, and an
    /// approval would lie unused until the next such purchase.
    pub(super) fn joins(&self) -> Option<NotBought> {
        let questions = self.buying().questions.as_ref()?;
        let mut charges = self.plan.decided.charges.iter();
        let rule = charges.find(|charge| charge.excess == Excess::Asked)?.rule.clone();
        let rules = vec![rule];
        let agent = self.lane.agent();
        if questions.knows_nothing_of(agent.as_str()) {
            return None;
        }
        let plan = self.plan.clone();
        let asking = self.context.decider.decide_to_ask(self.subject(), plan, &rules);
        let Disposition::Purchase(asking) = asking else {
            return None;
        };
        let approvers = questions.approvers(asking.decided.threshold.as_ref()?).ok()?;
        let question = self.question_about(&asking.offer, &approvers.name());
        match questions.known(agent.as_str(), &question)? {
            // An approval lifts the rules of its question, not the one that this plan happens to name.
            Known::Open { rules: named } if !named.is_empty() => {
                Some(NotBought::MustAsk(named.into_iter().map(Arc::from).collect()))
            }
            // A question of an older program names none.
            Known::Open { .. } | Known::Denied => Some(NotBought::MustAsk(rules)),
        }
    }

    /// Waits for a person's decision as long as the agent's request may, then arms the held money.
    pub(super) async fn approved(&self, agent: &mut Agent) -> Result<(Reservation, Permission), NotBought> {
        let Some(questions) = &self.buying().questions else {
            let detail = "This payment needs a person's approval, and no approver is configured. Nothing was paid.";
            return Err(Problem::new(Code::ApprovalFailed, detail).into());
        };
        let PurchasePlan { offer, decided, .. } = &self.plan;
        let threshold = decided.threshold.as_ref();
        let approvers = threshold.map_or(Err(NoApprover::Named), |threshold| questions.approvers(threshold));
        let approvers = approvers.map_err(|nobody| NotBought::from(nobody_to_ask(nobody)))?;
        let question = self.question_about(offer, &approvers.name());
        let wanted = Wanted {
            hold: self.hold(decided.held())?,
            intent: question.clone(),
            approvers,
            rules: threshold.map(|threshold| threshold.rules.clone()).unwrap_or_default(),
        };
        let mut wait = questions.ask(wanted).map_err(|not_asked| self.not_asked(not_asked))?;
        let hold = prefer::wait(&self.head.headers, self.buying().times.hold);
        let stage = tokio::select! {
            biased;
            // The question continues without the agent (R43).
            () = agent.gone() => return Err(Declined::AgentGone.into()),
            stage = wait.decided(hold) => stage,
            // R65.
            () = self.context.stop.cancelled() => None,
        };
        match stage {
            Some(Stage::Over(over)) => Err(self.over(&wait, over).await),
            Some(Stage::Approved { .. }) => match wait.take() {
                Some(taken) => self.arm_approved(questions, taken, agent).await,
                None => Err(run_out(wait.id()).into()),
            },
            _ => Err(self.undecided(&wait, &question).into()),
        }
    }

    /// If `taken` is dropped before arming, the approval is free again for the next request.
    async fn arm_approved(
        &self,
        questions: &Questions,
        taken: Taken,
        agent: &mut Agent,
    ) -> Result<(Reservation, Permission), NotBought> {
        let current = tokio::select! {
            biased;
            // An approval is not used up for an agent that has hung up.
            () = agent.gone() => return Err(Declined::AgentGone.into()),
            current = self.current() => current,
        };
        let permission = match current {
            Ok(permission) => permission,
            Err(other) => {
                if self.is_of_other_terms(questions, &other, &taken) {
                    questions.withdraw(taken, Withdrawn::Terms).await;
                }
                return Err(other);
            }
        };
        let threshold = self.plan.decided.threshold.as_ref();
        if threshold.is_none_or(|threshold| taken.may_have_been_approved_by(&threshold.owners)) {
            questions.withdraw(taken, Withdrawn::Owner).await;
            return Err(owned().into());
        }
        // The limits may have changed: a rule that the question did not name is not lifted (R82).
        if threshold.is_some_and(|threshold| !threshold.rules.iter().all(|rule| taken.names(rule))) {
            questions.withdraw(taken, Withdrawn::AnotherRule).await;
            return Err(NotBought::Reconsidered(Box::new(self.plan.clone())));
        }
        let rid = taken.id();
        let held = match self.buying().ledger.get(rid).await {
            Ok(held) => held.and_then(|payment| payment.terms()),
            Err(error) => return Err(not_looked_up(&error)),
        };
        let PurchasePlan { offer, decided, .. } = &self.plan;
        // The hold fixes more than the intent states: a facilitator, a fee cap, what it counts as.
        if held.is_none_or(|held| held != terms(offer, decided.usd)) {
            questions.withdraw(taken, Withdrawn::Terms).await;
            return Err(changed().into());
        }
        // Another request for the same terms may have been paid meanwhile with an unknown outcome (R4).
        if let Some(problem) = self.forbidden_by_another().await {
            return Err(problem.into());
        }
        if agent.is_gone() {
            return Err(Declined::AgentGone.into());
        }
        let arming = Arming {
            arm: self.arm()?,
            charges: decided.charges.clone(),
            approval: Some(rid.to_string()),
        };
        let armed = self.buying().ledger.arm(rid, arming).await;
        let reservation = match armed {
            Ok(reservation) => reservation,
            // No other request can use it any more either.
            Err(ReserveError::NotHeld(_) | ReserveError::Approval(_)) => {
                questions.run_out(taken).await;
                return Err(run_out(rid).into());
            }
            Err(error) => return Err(self.not_armed(questions, taken, error).await),
        };
        taken.used();
        Ok((reservation, permission))
    }

    /// Spending may have passed another rule while the person decided. If the question did not name it, the person is
    /// asked again, with all of them (R82); if it did, this request only did not know.
    async fn not_armed(&self, questions: &Questions, taken: Taken, error: ReserveError) -> NotBought {
        let Some(NotBought::MustAsk(rules)) = self.asks_over(&error) else {
            // What is held for this purchase still counts, so nobody can say from when on it fits.
            return self.refused_by_ledger(error, None);
        };
        if !rules.iter().all(|rule| taken.names(rule)) {
            tracing::info!(
                approval = %taken.id(), ?rules,
                "spending has passed another rule since the question was asked; a person is asked again"
            );
            questions.withdraw(taken, Withdrawn::AnotherRule).await;
        }
        NotBought::MustAsk(rules)
    }

    /// Checks that windows, limits and terms are still those of the question, and gets the permission that the offer
    /// needs. Otherwise returns what to do instead.
    async fn current(&self) -> Result<Permission, NotBought> {
        if self.asked_at.elapsed() > FRESH {
            return Err(self.asked_again().await?);
        }
        match self.decided_again() {
            Ok(current) if current.offer.sha256 != self.plan.offer.sha256 => {
                return Err(NotBought::Reconsidered(Box::new(current)));
            }
            Ok(_) => {}
            // The challenge has expired meanwhile: the site has a fresh one.
            Err(Declined::PassThrough(_)) => return Err(self.asked_again().await?),
            Err(refused) => return Err(refused.into()),
        }
        // This can query nodes and wait for another payment, so the limits are checked afterwards.
        let permission = self.permission().await?;
        match self.context.decider.still_holds(&self.plan) {
            true => Ok(permission),
            false => Err(self.reconsidered()),
        }
    }

    /// Whether the new plan differs from what was approved: the approval is then useless, and its held money is
    /// released.
    fn is_of_other_terms(&self, questions: &Questions, other: &NotBought, taken: &Taken) -> bool {
        let (NotBought::AskedAgain(plan) | NotBought::Reconsidered(plan)) = other else {
            return false;
        };
        let threshold = plan.decided.threshold.as_ref();
        let approvers = threshold.and_then(|threshold| questions.approvers(threshold).ok());
        approvers.is_none_or(|approvers| {
            let question = self.question_about(&plan.offer, &approvers.name());
            question.hash() != taken.intent().hash()
        })
    }

    /// Gets a fresh 402 for the same request (R41) and decides about it as about the first.
    async fn asked_again(&self) -> Result<NotBought, NotBought> {
        let mut response = send_again(&self.lane, &self.head, &self.replay).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Declined::Free(Box::new(stream(response))).into());
        }
        let over = self.plan.over.clone();
        let decider = &self.context.decider;
        let disposition = decider
            .disposition(self.subject(), &self.head.headers, &mut response, over)
            .await;
        Unread(response).drain().await;
        Ok(match planned(disposition) {
            Ok(plan) => NotBought::AskedAgain(Box::new(plan)),
            Err(declined) => declined.into(),
        })
    }

    async fn forbidden_by_another(&self) -> Option<Problem> {
        let (target, _) = self.identity();
        self.context.repeats.forbids(&self.head, target, &self.replay).await
    }

    /// What the approver decides about (approvals §8.1, R40).
    fn question_about(&self, offer: &Offer, approver: &str) -> ApprovalIntent {
        let origin = self.lane.origin();
        let target = self.head.uri.path_and_query().map_or("/", |target| target.as_str());
        let resource = format!("{}://{}{target}", origin.scheme.as_str(), origin.host_field());
        let asked = Asked {
            agent: self.lane.agent().as_str(),
            approver,
            host: origin.authority.host.as_str(),
            method: self.head.method.as_str(),
            resource: &resource,
            body_sha256: (!self.replay.is_empty()).then_some(self.replay.sha256),
        };
        ApprovalIntent::of(&asked, offer)
    }

    fn undecided(&self, wait: &Wait, question: &ApprovalIntent) -> Problem {
        let (id, host) = (wait.id(), &self.lane.origin().authority.host);
        let detail = format!(
            "This payment of {} {} to {host} needs a person's approval, which has not been given yet. Nothing was \
             paid. Send the same request again: it joins question {id} and is paid once that is approved.",
            question.amount(),
            self.plan.offer.asset.symbol(),
        );
        Problem::new(Code::ApprovalPending, detail)
            .status(self.buying().pending_status)
            .approval(id, Some(wait.ends()))
            .retryable(true)
            .retry_after(COME_BACK)
    }

    async fn over(&self, wait: &Wait, over: Over) -> NotBought {
        let id = wait.id();
        let problem = match over {
            // Nobody was asked yet: the question names this rule as well.
            Over::NotHeld(error) => {
                return match self.asks_over(&error) {
                    Some(asks) => asks,
                    None => self.not_reserved(error).await,
                };
            }
            Over::Used => run_out(id),
            Over::AskedAlready(id) => {
                let detail = format!(
                    "Another proxy on this ledger is already asking a person the same question ({id}). Nothing was \
                     paid. Send the request through that proxy, or try again later: once that question has ended, it \
                     can be asked here."
                );
                Problem::new(Code::ApprovalBusy, detail)
                    .approval(id, None)
                    .retryable(true)
                    .retry_after(super::STORE_RETRY)
            }
            Over::Denied(denial) => denied(&denial, self.buying().times.deny_cooldown).approval(id, None),
            Over::Expired => {
                let detail = format!(
                    "Question {id} has ended: nobody decided in time, the approval was not used in time, or it did not \
                     cover this payment any more. Nothing was paid. Send the same request again to ask anew."
                );
                Problem::new(Code::ApprovalExpired, detail)
                    .approval(id, None)
                    .retryable(true)
                    .retry_after(COME_BACK)
            }
            Over::Failed(failure) => {
                let detail = format!(
                    "The approval backend gave no usable answer ({}). Nothing was paid.",
                    failure.code
                );
                let problem = Problem::new(Code::ApprovalFailed, detail).approval(id, None);
                match failure.retryable {
                    true => problem.retryable(true).retry_after(super::STORE_RETRY),
                    false => problem.retryable(false),
                }
            }
            Over::NotRecorded(error) => {
                let detail = format!("The approval could not be recorded: {error}. Nothing was paid.");
                Problem::new(Code::StoreUnavailable, detail)
                    .retryable(true)
                    .retry_after(super::STORE_RETRY)
            }
        };
        problem.into()
    }

    fn not_asked(&self, not_asked: NotAsked) -> NotBought {
        let busy = |detail: String, wait: Duration| {
            Problem::new(Code::ApprovalBusy, detail)
                .retryable(true)
                .retry_after(wait)
        };
        let problem = match not_asked {
            NotAsked::Denied { denial, wait } => denied(&denial, wait),
            NotAsked::Bounded { bound, wait } => busy(bounded(&bound), wait.unwrap_or(super::STORE_RETRY)),
            NotAsked::OtherKey(id) => busy(
                format!(
                    "Question {id} is the same and belongs to a request with another Idempotency-Key, or with none. \
                     Nothing was paid. Send that request's key, or wait until the question is decided."
                ),
                super::STORE_RETRY,
            )
            .approval(id, None),
            NotAsked::NoCode => return super::record::no_random_bytes(),
        };
        problem.into()
    }
}

fn bounded(bound: &Bound) -> String {
    match bound {
        Bound::OfAgent { agent, open } => format!(
            "{agent} already has {open} questions waiting for a person. Nothing was paid. Finish those first, or have \
             the operator raise max_pending_per_agent under [approval] in bursar.toml."
        ),
        Bound::OfApprover { open, .. } => format!(
            "{open} questions are already waiting for the same person. Nothing was paid. The operator can raise \
             max_pending_per_approver under [approval] in bursar.toml."
        ),
        Bound::OfHour { agent, count, .. } => format!(
            "{agent} has asked a person {count} times within an hour, which is the most allowed. Nothing was paid. The \
             operator can raise prompts_per_hour under [approval] in bursar.toml."
        ),
    }
}

fn nobody_to_ask(nobody: NoApprover) -> Problem {
    let why = match nobody {
        NoApprover::Named => "neither limits.toml (`approvers`) nor bursar.toml names an approver".to_owned(),
        NoApprover::Else => "the only approvers named own the agent according to limits.toml (`owner`)".to_owned(),
        NoApprover::Enough { needed, named } => format!("{needed} approvers are needed, but only {named} are named"),
    };
    let detail = format!("This payment needs a person's approval, and {why}. Nothing was paid.");
    Problem::new(Code::ApprovalFailed, detail).retryable(false)
}

fn denied(denial: &Denial, wait: Duration) -> Problem {
    let why = denial.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let detail = format!(
        "A person denied this payment{why}. Nothing was paid. The same is not asked again for {} seconds.",
        wait.as_secs()
    );
    Problem::new(Code::ApprovalDenied, detail).retryable(false)
}

fn run_out(id: PaymentId) -> Problem {
    let detail = format!(
        "The approval of question {id} has expired, or another request for the same terms has used it. Nothing was \
         paid for this request. Send it again to ask anew."
    );
    Problem::new(Code::ApprovalExpired, detail)
        .approval(id, None)
        .retryable(true)
        .retry_after(COME_BACK)
}

fn not_looked_up(error: &LedgerError) -> NotBought {
    let detail = format!(
        "The ledger could not be asked about the money held for this payment: {error}. Nothing was paid; the \
                 approval is kept."
    );
    let problem = Problem::new(Code::StoreUnavailable, detail);
    problem.retryable(true).retry_after(super::STORE_RETRY).into()
}

/// The first 402 is too old to be passed on: a payer inside the agent must not answer it (R39).
pub(super) fn offer_gone(why: Unpaid) -> Problem {
    let detail = format!(
        "While a person was deciding, the site's offer expired or changed so that it cannot be paid ({}). Nothing was \
         paid. Send the same request again to see the site's current terms.",
        why.code()
    );
    Problem::new(Code::ApprovalExpired, detail)
        .retryable(true)
        .retry_after(COME_BACK)
}

fn owned() -> Problem {
    let detail = "Since this was asked, limits.toml has named another owner for the agent, and an owner must not \
                  approve payments of that agent. Nothing was paid. Send the same request again to ask anew.";
    Problem::new(Code::ApprovalExpired, detail)
        .retryable(true)
        .retry_after(COME_BACK)
}

fn changed() -> Problem {
    let detail = "The site has changed its terms since the payment was approved, so the approval does not apply. \
                  Nothing was paid. Send the same request again to ask anew.";
    Problem::new(Code::ApprovalExpired, detail)
        .retryable(true)
        .retry_after(COME_BACK)
}
