//! What every engine of the ledger must do, run against each of them. Each case gets an empty engine.

mod approvals;
mod engine;
mod limits;
mod model;
mod moves;
mod races;
mod signer;
mod spent;
mod time;

macro_rules! conformance {
    ($($engine:ident { $($theme:ident::{$($case:ident),+ $(,)?}),+ $(,)? })+) => {
        $(mod $engine {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::conformance::$theme::$case(crate::conformance::engine::$engine().await).await;
                }
            )+)+
        })+
    };
}

macro_rules! over {
    ($($engine:ident),+) => {
        conformance! {
            $($engine {
                limits::{
                    all_charges_are_booked_or_none, the_first_charge_that_does_not_fit_is_named, counts_are_limits_too,
                    two_charges_on_one_counter_count_together, an_amount_that_no_counter_holds_is_refused,
                    pending_is_what_is_open, a_budget_that_fills_up_is_reported_once, a_nonce_and_an_id_are_used_once,
                    one_payment_is_made_under_an_idempotency_key,
                },
                moves::{
                    only_lawful_moves_are_made, what_ends_is_counted_as_it_ended, a_hold_is_armed_or_released,
                    arming_checks_the_limits_of_now, charges_move_when_the_window_has_changed,
                    only_what_is_unknown_is_resolved_by_hand, the_chain_is_heard_once,
                    what_an_upto_did_not_take_comes_back_once, a_part_comes_back_to_the_windows_that_are_left, open_payments_are_listed_oldest_first,
                    a_closed_ledger_does_nothing, what_was_open_is_found_again,
                },
                time::{
                    rolling_windows_roll, a_clock_that_goes_back_reopens_nothing, a_jump_ahead_stops_reservations,
                },
                races::{
                    many_at_once_never_pass_a_limit, a_reservation_that_nobody_waits_for_does_not_count,
                    one_payment_ends_once, every_call_during_close_is_answered,
                },
                approvals::{
                    what_was_granted_is_paid_once, one_approval_at_a_time_is_for_one_held_payment,
                    evidence_is_used_once_and_forgotten_in_the_end, an_approval_that_is_not_used_in_time_is_not_used,
                    limits_of_now_leave_an_approval_as_it_is, a_denial_is_remembered_until_its_end,
                    what_a_person_was_asked_about_is_still_held_after_a_stop, a_closed_ledger_returns_no_approvals,
                    of_two_that_ask_or_grant_or_arm_at_once_one_does, the_entries_record_it_in_order,
                    as_many_people_as_it_needs_grant_it,
                },
                spent::{
                    only_an_approval_passes_a_limit, an_approval_begins_another_count, a_payee_is_known_once_it_was_paid,
                },
                signer::{
                    what_a_signer_chooses_is_recorded_once, a_nonce_that_was_used_is_not_taken_from_a_signer,
                    only_what_is_armed_for_a_signer_takes_what_it_chose, an_arming_must_say_who_chooses_the_nonce,
                    what_a_signer_has_is_found_again,
                },
                model::{it_counts_as_a_slow_model_does},
            })+
        }
    };
}

over!(memory, embedded);
#[cfg(feature = "postgres")]
over!(postgres);
