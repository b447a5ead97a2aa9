//! The faults of a call to AWS: drawn for each call.

use std::time::Duration;

use crate::hardship::Trouble;
use crate::world::World;

/// One call's lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lot {
    Calm,
    /// The connection breaks.
    Reset(When),
    /// An error that the service gives.
    Error(When, u16, &'static str),
    /// Something in between answers in the service's place.
    Gateway(When),
    /// It takes this long, and may exceed the client's timeout.
    Slow(When, Duration),
    /// The answer's second half comes this much later; without a time, never.
    Body(Option<Duration>),
    /// The answer breaks off in its middle.
    Cut,
    /// Nothing is done, and no answer ever comes.
    Hangs,
    /// A listing that has nothing in it.
    Empty,
}

/// Before the call took effect, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

impl Lot {
    /// The fault of a call because of a lasting problem.
    pub fn of_spell(world: &World, operation: &str) -> Option<Self> {
        let lists = operation == "ListPipelineExecutionSteps";
        let asks = lists || operation == "DescribePipelineExecution";
        let reports = operation.starts_with("SendPipelineExecutionStep");
        let refused = |code| Self::Error(When::Before, 400, code);
        let spells = [
            (asks, Trouble::Throttled, refused("ThrottlingException")),
            (reports, Trouble::Denied, refused("AccessDeniedException")),
            (lists, Trouble::Unlisted, Self::Empty),
            (asks || reports, Trouble::Unlisted, refused("ResourceNotFound")),
            (asks || reports, Trouble::NotFound, refused("ResourceNotFound")),
            (operation.starts_with("DeleteMessage"), Trouble::DeletesHang, Self::Hangs),
        ];
        let (_, trouble, lot) =
            spells.into_iter().find(|(meets, trouble, _)| *meets && world.is_in(*trouble))?;
        world.count(&format!("spell: {trouble:?}"));
        Some(lot)
    }

    /// No fault, except for this fraction of all calls. A question may also be told that nothing
    /// exists.
    pub fn draw(world: &World, trouble: f64, operation: &str) -> Self {
        let asks = ["DescribePipelineExecution", "ListPipelineExecutionSteps"].contains(&operation);
        if !world.has_faults() || !world.chance(trouble) {
            return Self::Calm;
        }
        let when = if world.draw(2) == 0 { When::Before } else { When::After };
        match world.draw(8) {
            0 | 1 => Self::Reset(when),
            2 => Self::Error(when, 500, "InternalFailure"),
            3 => Self::Error(when, 503, "ServiceUnavailable"),
            4 => match world.draw(4) {
                0 => Self::Error(When::Before, 400, "AccessDeniedException"),
                1 => Self::Gateway(when),
                2 if asks => Self::Error(When::Before, 400, "ResourceNotFound"),
                _ => Self::Error(When::Before, 400, "ThrottlingException"),
            },
            5 => Self::Slow(when, Duration::from_millis(world.draw(15_000))),
            6 => {
                Self::Body((world.draw(2) == 0).then(|| Duration::from_millis(world.draw(15_000))))
            }
            _ => Self::Cut,
        }
    }

    /// By which it is counted.
    pub fn name(self) -> Option<String> {
        Some(match self {
            Self::Calm => return None,
            Self::Reset(when) => format!("fault: reset {}", when.name()),
            Self::Error(when, _, code) => format!("fault: {code} {}", when.name()),
            Self::Gateway(when) => format!("fault: gateway {}", when.name()),
            Self::Slow(when, _) => format!("fault: slow {}", when.name()),
            Self::Body(Some(_)) => "fault: slow body".to_owned(),
            Self::Body(None) => "fault: stalled body".to_owned(),
            Self::Cut => "fault: body cut".to_owned(),
            Self::Hangs => "fault: hangs".to_owned(),
            Self::Empty => "fault: an empty listing".to_owned(),
        })
    }
}

impl When {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}
