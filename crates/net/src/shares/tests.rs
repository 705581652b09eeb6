use std::future::Future;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn shares(all: usize, each: usize, queue_each: usize) -> Shares {
    Shares::new(What::Lookups, Bounds { all, each, queue_each })
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn full(by: By) -> Full {
    Full {
        what: What::Lookups,
        by,
    }
}

#[test]
fn one_agent_gets_its_part_and_leaves_the_rest_to_the_others() {
    let shares = shares(4, 2, 0);
    let (bad, good) = (agent("bad"), agent("good"));
    let held: Vec<_> = (0..2).map(|_| shares.take(&bad, 1).unwrap()).collect();
    assert_eq!(shares.take(&bad, 1).err(), Some(full(By::Agent)));
    let other = shares.take(&good, 2).unwrap();
    assert_eq!(shares.take(&agent("late"), 1).err(), Some(full(By::All)));
    drop((held, other));
    assert_eq!(shares.used(), 0);
    assert!(shares.0.lock().agents.is_empty(), "agents are forgotten");
}

#[test]
fn a_queue_of_one_agent_delays_nobody_else() {
    let shares = shares(2, 1, 8);
    let (bad, good) = (agent("bad"), agent("good"));
    let held = shares.take(&bad, 1).unwrap();
    let mut queue: Vec<_> = (0..8).map(|_| Box::pin(shares.wait(&bad))).collect();
    assert!(queue.iter_mut().all(|waiting| poll(waiting).is_pending()));
    let mut one_more = Box::pin(shares.wait(&bad));
    assert!(matches!(poll(&mut one_more), Poll::Ready(Err(why)) if why == full(By::Agent)));
    let mut at_once = Box::pin(shares.wait(&good));
    assert!(matches!(poll(&mut at_once), Poll::Ready(Ok(_))));
    // The first in the queue gets what is given back.
    drop(held);
    assert!(matches!(poll(&mut queue[0]), Poll::Ready(Ok(_))));
    // That one was dropped at once, so the next one has it by now.
    assert!(matches!(poll(&mut queue[1]), Poll::Ready(Ok(_))));
}

#[test]
fn who_no_longer_waits_is_no_longer_in_the_queue() {
    let shares = shares(1, 1, 3);
    let bad = agent("bad");
    let held = shares.take(&bad, 1).unwrap();
    let mut queue: Vec<_> = (0..3).map(|_| Box::pin(shares.wait(&bad))).collect();
    queue.iter_mut().for_each(|waiting| assert!(poll(waiting).is_pending()));
    assert_eq!(shares.waiting(), 3);
    drop(queue.remove(1));
    drop(queue.remove(0));
    assert_eq!(shares.waiting(), 1);
    drop(held);
    // It was given to the one that is left, which hangs up before it looks.
    assert_eq!((shares.used(), shares.waiting()), (1, 0));
    queue.clear();
    assert_eq!(shares.used(), 0);
    assert!(shares.0.lock().agents.is_empty());
}

type Waits = std::pin::Pin<Box<dyn Future<Output = Result<Share, Full>>>>;

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    Wait(usize),
    Drop(usize),
    HangUp(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3usize).prop_map(Step::Take),
        (0..3usize).prop_map(Step::Wait),
        (0..16usize).prop_map(Step::Drop),
        (0..16usize).prop_map(Step::HangUp),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn no_bound_is_ever_passed_and_nobody_who_could_be_served_waits(steps in steps()) {
        let shares = shares(4, 2, 3);
        let names = [agent("a"), agent("b"), agent("c")];
        let mut held = Vec::new();
        let mut waiting: Vec<(usize, Waits)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(who) => held.extend(shares.take(&names[who], 1)),
                Step::Wait(who) => {
                    let (shares, name) = (shares.clone(), names[who].clone());
                    let future: Waits = Box::pin(async move { shares.wait(&name).await });
                    waiting.push((who, future));
                }
                Step::Drop(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                Step::HangUp(at) if !waiting.is_empty() => drop(waiting.swap_remove(at % waiting.len())),
                Step::Drop(_) | Step::HangUp(_) => {}
            }
            let mut still = Vec::new();
            for (who, mut future) in waiting {
                match poll(&mut future) {
                    Poll::Ready(outcome) => held.extend(outcome),
                    Poll::Pending => still.push((who, future)),
                }
            }
            waiting = still;
            prop_assert_eq!(shares.used(), held.len());
            prop_assert_eq!(shares.waiting(), waiting.len());
            prop_assert!(held.len() <= 4);
            for (who, name) in names.iter().enumerate() {
                prop_assert!(held.iter().filter(|share| share.agent() == name).count() <= 2);
                let queued = waiting.iter().filter(|(queued, _)| *queued == who).count();
                prop_assert!(queued <= 3);
                prop_assert!(queued == 0 || shares.used_up(name).is_some());
            }
        }
        drop((held, waiting));
        prop_assert!(shares.0.lock().agents.is_empty());
    }
}

#[tokio::test]
async fn what_is_given_back_wakes_the_task_that_waits() {
    let shares = shares(1, 1, 1);
    let held = shares.take(&agent("a"), 1).unwrap();
    let other = shares.clone();
    let waiting = tokio::spawn(async move { other.wait(&agent("b")).await.map(|share| share.agent().clone()) });
    while shares.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap(), agent("b"));
}
