//! What holds whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    let standing = prop_oneof![
        Just(OPEN),
        Just(STOPPING),
        Just(CLOSED),
        Just(Standing::Closed(StepResult::Succeeded)),
        Just(Standing::Closed(StepResult::Failed)),
        Just(Standing::NotFound),
    ];
    prop_oneof![
        3 => (1..4u32, prop::option::of(0..80_000i64)).prop_map(|(receives, at)| work(receives, at.and_then(sent_at))),
        2 => Just(Event::Delivered(Arrival::Stop)),
        1 => Just(Event::Delivered(Arrival::Foreign)),
        1 => Just(Event::Found),
        3 => standing.prop_map(|standing| Event::Answered(Answer::Standing(standing))),
        1 => Just(Event::Answered(Answer::Unknown("denied".into()))),
        4 => Just(Event::SlotFree),
        1 => Just(Event::Checkpoint(json!(1))),
        2 => Just(Event::Ended(RunEnd::Success(Outputs::new()))),
        1 => Just(Event::Ended(RunEnd::Failure("no".into()))),
        1 => Just(Event::Ended(RunEnd::Retry { after: None, error: "later".into() })),
        1 => Just(Event::Ended(RunEnd::Again(Duration::from_mins(1)))),
        1 => Just(Event::Ended(RunEnd::Deferred)),
        2 => Just(Event::Ended(RunEnd::Hindered { what: "space", after: Duration::from_secs(30), error: "disk full".into() })),
        1 => Just(Event::Ended(RunEnd::Aborted)),
        2 => Just(Event::Cleaned(Ok(()))),
        1 => Just(Event::Cleaned(Err("no".into()))),
        1 => Just(Event::CleanupAborted),
        1 => Just(Event::Trusted),
        1 => Just(Event::GraceOver),
        1 => Just(Event::DeadlineReached),
        2 => Just(Event::Woken),
        1 => Just(Event::StopSeen(Via::Watch)),
        1 => Just(Event::SeenEnded { stopped: false }),
        2 => Just(Event::ReportAccepted),
        1 => Just(Event::ReportRefused("conflict".into())),
        1 => any::<bool>().prop_map(|denied| Event::ReportFailed { denied, detail: "no".into() }),
        1 => Just(Event::LeaseLost),
        2 => Just(Event::RetryAsked),
        1 => Just(Event::Phase),
    ]
}

/// What happens, how long after the last, and what else has changed by then.
#[derive(Clone, Debug)]
struct Turn {
    event: Event,
    wait: Duration,
    crash: bool,
    moves_on: bool,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    (any_event(), 0..1200u64, prop::bool::weighted(0.05), prop::bool::weighted(0.05)).prop_map(
        |(event, seconds, crash, moves_on)| Turn {
            event,
            wait: Duration::from_secs(seconds),
            crash,
            moves_on,
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let verify = prop_oneof![Just(Verify::Redelivered), Just(Verify::Always), Just(Verify::Never)];
    let answers = prop_oneof![Just(AnsweredBy::Callbackd), Just(AnsweredBy::Handler)];
    (verify, answers).prop_map(|(verify, answers)| Policy { answers, verify, ..POLICY })
}

impl Bench {
    fn take_turn(&mut self, turn: &Turn) -> Result<Vec<Effect>, Illegal> {
        self.pass(turn.wait);
        if turn.crash {
            self.crash();
        }
        if turn.moves_on {
            self.phase = match self.phase {
                Phase::Running => Phase::Draining,
                Phase::Draining => Phase::Stopping,
                Phase::Stopping | Phase::Leaving => Phase::Leaving,
            };
        }
        self.try_feed(&turn.event)
    }

    fn is_claimed_here(&self) -> bool {
        self.status() == Status::Claimed && self.state.record.owner.as_ref() == Some(&self.me)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_happens_the_promises_hold(policy in any_policy(), turns in prop::collection::vec(any_turn(), 1..60)) {
        let mut bench = Bench { policy, ..Bench::new() };
        let mut frozen = None;
        for turn in turns {
            let before = bench.state.clone();
            let stopped = before.record.stop_requested.is_some();
            let Ok(effects) = bench.take_turn(&turn) else { continue };
            let record = &bench.state.record;
            prop_assert!(record.status != Status::Claimed || !record.resume, "a crash would not be \
                counted: {record:?}");
            if record.version > 0 {
                prop_assert_eq!(contradictions(record), [""; 0], "{:?}", record);
            }
            for effect in &effects {
                match effect {
                    Effect::Delete => prop_assert!(matches!(record.status, Status::Settled | Status::Deferred), "deleted {record:?}"),
                    Effect::Run => {
                        prop_assert!(record.stop_requested.is_none(), "a stopped step was started");
                        prop_assert!(!stopped && bench.phase == Phase::Running && bench.is_claimed_here());
                        prop_assert!(record.outcome.is_none() && record.attempt <= POLICY.max_attempts);
                    }
                    Effect::CleanUp(_) => prop_assert!(bench.is_claimed_here()),
                    Effect::Report => prop_assert!(record.status == Status::Concluded && record.outcome.is_some()),
                    _ => {}
                }
            }
            if before.record.status == Status::Settled && record.status != Status::Settled {
                let open = matches!(turn.event, Event::Answered(Answer::Standing(Standing::Open { .. })));
                prop_assert!(open && before.local.activity == Activity::Reopening, "only SageMaker \
                    reopens a step");
                frozen = None;
            }
            if let Some((outcome, request)) = &frozen {
                prop_assert_eq!(outcome, &record.outcome);
                prop_assert_eq!(request, &record.client_request_token);
            } else if record.outcome.is_some() {
                frozen = Some((record.outcome.clone(), record.client_request_token.clone()));
            }
        }
    }

    /// These rules alone let a driver perform effects, park steps and forget them.
    #[test]
    fn whatever_happens_a_driver_can_rely_on_the_shape_of_a_transition(
        policy in any_policy(),
        turns in prop::collection::vec(any_turn(), 1..60),
    ) {
        let mut bench = Bench { policy, ..Bench::new() };
        for turn in turns {
            let before = bench.state.clone();
            let Ok(effects) = bench.take_turn(&turn) else { continue };
            let (local, status) = (bench.state.local, bench.status());
            let has = |wanted: fn(&Effect) -> bool| effects.iter().any(wanted);
            match bench.written {
                Some(Urgency::Along) => {
                    prop_assert!(matches!(local.activity, Activity::Stopping(_)));
                    let at_once =
                        |effect: &Effect| matches!(effect, Effect::Tell(_) | Effect::CountStop(_) | Effect::Abort | Effect::Wake(_) | Effect::Ask { .. });
                    prop_assert!(effects.iter().all(at_once), "{effects:?}");
                }
                Some(Urgency::Lazy) => prop_assert_eq!(status, Status::Settled),
                Some(Urgency::First) | None => {}
            }
            prop_assert!(!bench.replaced || !matches!(status, Status::New | Status::Settled));
            prop_assert!(!bench.replaced || !has(|effect| matches!(effect, Effect::Delete | Effect::Return | Effect::LetGo)));
            if local.idle() {
                prop_assert_eq!(local, Local::NOTHING);
                let waits =
                    has(|effect| matches!(effect, Effect::Wake(_) | Effect::Ask { .. } | Effect::AwaitSlot | Effect::Report));
                prop_assert!(!waits, "{effects:?}");
            }
            if bench.phase > Phase::Running {
                let under_way = matches!(local.activity, Activity::Idle | Activity::Cleaning(_) | Activity::Reporting | Activity::CheckingRefusal)
                    || local.activity.is_running()
                    || local.activity == Activity::Sleeping && status == Status::Concluded;
                prop_assert!(under_way, "{:?} {status:?} in {:?}", local.activity, bench.phase);
            }
            if bench.phase >= Phase::Stopping && bench.written != Some(Urgency::First) {
                prop_assert!(local.activity != Activity::Running);
            }
            if bench.phase == Phase::Leaving && bench.written != Some(Urgency::First) {
                let ends = local.idle()
                    || local.activity.is_running()
                    || matches!(local.activity, Activity::Cleaning(_) | Activity::Reporting);
                prop_assert!(ends, "{:?}", local.activity);
            }
            // An activity that arranges its own next step is never left without one.
            if matches!(local.activity, Activity::Sleeping | Activity::Unverified) && before.local.activity != local.activity {
                prop_assert!(has(|effect| matches!(effect, Effect::Wake(_))), "{:?} \
                    {effects:?}", local.activity);
            }
            if local.activity == Activity::Queued && before.local.activity != Activity::Queued {
                prop_assert!(has(|effect| *effect == Effect::AwaitSlot));
            }
            if local.stop_in_doubt.is_some() && before.local.stop_in_doubt.is_none() {
                let asks = has(|effect| *effect == CONFIRM);
                prop_assert!(asks || local.activity == Activity::Reopening);
            }
        }
    }

    #[test]
    fn where_stops_must_be_verified_nothing_comes_of_messages_that_sagemaker_does_not_confirm(
        turns in prop::collection::vec(any_turn(), 1..60),
    ) {
        let mut bench = Bench::verifying();
        for turn in turns {
            let says = |answer: &Answer| matches!(answer, Answer::Standing(Standing::Open { .. } | Standing::Closed(_)));
            let confirmed = match &turn.event {
                Event::Answered(answer) => says(answer),
                // The watch has asked SageMaker itself.
                Event::StopSeen(_) | Event::SeenEnded { stopped: false } => true,
                _ => false,
            };
            if confirmed {
                continue;
            }
            if bench.take_turn(&turn).is_ok() {
                prop_assert_eq!(bench.status(), Status::New);
            }
        }
    }
}
