//! What the model comes by, so that nothing holds only because it never happens.

use callbackd::lifecycle::{Here, Status};
use callbackd::step::StopReason;
use stateright::{Checker, Model};

use crate::queue::Place;
use crate::world::{Left, NOTHING, World};
use crate::{ONE, SHARING, Setup, TWO};

fn reached(setup: &Setup, left: Left, what: &str, is_so: fn(&World) -> bool) {
    let setup = Setup { left, look_for: Some(is_so), ..setup.clone() };
    let checker = setup.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("it is reached").is_some(), "it never comes to pass that {what}");
}

fn here(world: &World, w: usize) -> Option<Here> {
    Some(world.processes[w].driver.as_ref()?.here)
}

fn status(world: &World) -> Option<Status> {
    Some(world.ledgers[0].as_ref()?.status)
}

#[test]
fn crashes_and_takeovers_are_come_by() {
    let left = Left { crashes: 1, ..NOTHING };
    reached(&ONE, left, "a step is run again after a crash", |world| {
        here(world, 0) == Some(Here::Running) && world.processes[0].owner.process == 1 && world.runs == 2
    });
    reached(&ONE, left, "an outcome is reported after a crash, without a message", |world| {
        here(world, 0) == Some(Here::Reporting)
            && world.processes[0].owner.process == 1
            && world.queue.messages[0].place == Place::Returning
    });
    reached(&SHARING, left, "a worker takes over the step of one that died", |world| {
        here(world, 1) == Some(Here::Running) && world.runs == 2
    });
    let left = Left { crashes: 1, stops: 1, ..NOTHING };
    reached(&ONE, left, "a cleanup is done again after a crash", |world| {
        matches!(here(world, 0), Some(Here::Cleaning(_))) && world.processes[0].owner.process == 1 && world.runs == 1
    });
    reached(&ONE, Left { crashes: 2, ..NOTHING }, "a step is given up after its attempts", |world| {
        world.ledgers[0]
            .as_ref()
            .and_then(|record| record.outcome.as_ref())
            .is_some_and(|text| text.contains("gave up"))
    });
}

#[test]
fn stops_early_late_and_unheard_are_come_by() {
    let left = Left { stops: 1, ..NOTHING };
    reached(&ONE, left, "a stop comes before its work", |world| status(world) == Some(Status::Owed));
    reached(&ONE, left, "a stop comes when the outcome is frozen", |world| {
        here(world, 0) == Some(Here::Reporting)
            && world.sagemaker.stopping
            && world.ledgers[0].as_ref().is_some_and(|r| r.stop.is_none())
    });
    reached(&ONE, left, "a stop is noticed without its message", |world| {
        here(world, 0) == Some(Here::Winding(StopReason::PipelineStopped)) && world.queue.messages.len() == 1
    });
    reached(&TWO, left, "a worker holds the stop of a step that another one runs", |world| {
        here(world, 0) == Some(Here::Running) && here(world, 1) == Some(Here::Sleeping)
    });
    reached(&TWO, left, "an owed stop is taken over while another worker runs the step", |world| {
        here(world, 0) == Some(Here::Running) && matches!(here(world, 1), Some(Here::Cleaning(_)))
    });
    reached(&SHARING, left, "the flag of one worker reaches the run of another", |world| {
        let held_by_other =
            world.queue.messages.get(1).is_some_and(|stop| stop.place == Place::Held { by: 1, deleting: false });
        here(world, 0) == Some(Here::Winding(StopReason::PipelineStopped)) && held_by_other
    });
}

#[test]
fn refusals_lost_leases_limits_and_shutdowns_are_come_by() {
    reached(&ONE, Left { endings: 1, ..NOTHING }, "a report is refused as the step is closed", |world| {
        here(world, 0) == Some(Here::Doubting) && world.sagemaker.closed && world.sagemaker.taken.is_none()
    });
    reached(&TWO, Left { lapses: 1, ..NOTHING }, "a report is refused as another worker's was taken", |world| {
        here(world, 0) == Some(Here::Doubting) && world.sagemaker.taken.is_some()
    });
    reached(&SHARING, Left { renewals_failing: 1, ..NOTHING }, "a lease is lost while its run goes on", |world| {
        here(world, 0) == Some(Here::Winding(StopReason::LeaseLost))
    });
    reached(&ONE, Left { time_limits: 1, ..NOTHING }, "a time limit is reached", |world| {
        matches!(here(world, 0), Some(Here::Cleaning(StopReason::TimeLimit)))
    });
    reached(&ONE, Left { shutdowns: 1, ..NOTHING }, "a released step is taken up by the next process", |world| {
        here(world, 0) == Some(Here::Running) && world.processes[0].owner.process == 1 && world.runs == 2
    });
}
