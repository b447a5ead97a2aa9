//! The participants of an exploration, and its budget of faults.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use callbackd::lifecycle::{AnsweredBy, Policy, Verify, contradictions};
use stateright::{Model, Property};

use crate::action::{Action, Hope, What};
use crate::driver::TOKEN;
use crate::happening::Standing;
use crate::judge::{About, Judge, Seen};
use crate::known::POLICY;
use crate::mutant::Mutant;
use crate::turn::{Mood, Turn};
use crate::witness::Witnesses;
use crate::world::{Budget, Copy, Worker, World};

/// No promise is broken, and the lifecycle refuses nothing that can happen.
pub const SAFE: &str = "nothing breaks";
/// Once faults have ended, the step comes to its end.
pub const ENDS: &str = "everything ends";
/// Each record in a ledger is one that `callbackd ledger verify` finds sound.
pub const SOUND: &str = "records are sound";

#[derive(Debug)]
pub struct Setup {
    /// Each worker's ledger.
    pub ledgers: &'static [u8],
    /// Other processes can have the ledger open.
    pub shared: bool,
    pub policy: Policy,
    pub budget: Budget,
    pub mutant: Option<Mutant>,
    /// The one property that is checked; else all.
    pub only: Option<&'static str>,
    pub witnesses: Witnesses,
    /// Worlds that are known to come to their end.
    ending: Mutex<HashSet<u64>>,
}

impl Setup {
    pub fn new(ledgers: &'static [u8], budget: Budget) -> Self {
        let shared = ledgers.len() > 1 && ledgers.iter().all(|ledger| *ledger == ledgers[0]);
        Self {
            ledgers,
            shared,
            policy: Policy { crowded_after: shared.then_some(Duration::from_mins(2)), ..POLICY },
            budget,
            mutant: None,
            only: None,
            witnesses: Witnesses::default(),
            ending: Mutex::default(),
        }
    }

    /// Steps and stops are verified before they are believed.
    pub fn verifying(self) -> Self {
        Self { policy: Policy { verify: Verify::Always, ..self.policy }, ..self }
    }

    /// The handler answers its steps itself.
    pub fn answering(self) -> Self {
        Self { policy: Policy { answers: AnsweredBy::Handler, ..self.policy }, ..self }
    }

    /// The handler of the step answers it itself.
    pub fn answers_itself(&self) -> bool {
        self.policy.answers == AnsweredBy::Handler
    }

    /// All workers on the queue share one ledger, so that a step of the ledger may go on without
    /// its message.
    pub fn is_exclusive(&self) -> bool {
        self.ledgers.iter().all(|ledger| *ledger == self.ledgers[0])
    }

    /// Looks for the shortest way in which a mutant violates one property.
    pub fn hunt(self, mutant: Mutant, property: &'static str) -> Self {
        Self { mutant: Some(mutant), only: Some(property), ..self }
    }

    /// Whether there is a path to the end without further faults.
    ///
    /// Retries and redeliveries are honest circles, so not every endless path is a defect. But the
    /// worlds are finite, and if from each of them some course of events leads to the end, only a
    /// permanently unfair one can miss it. A path does not count if a handler may refuse it, or if
    /// it depends on the second of two ways of noticing a stop; hence the little [`Hope`] on it.
    fn can_end(&self, world: &World) -> bool {
        let world = World { budget: Budget::default(), ..world.clone() };
        let mut seen = HashSet::new();
        let mut path = vec![self.node(world)];
        loop {
            let Some((world, name, rest)) = path.last_mut() else { return false };
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            if world.is_done() || ending.contains(name) {
                ending.extend(path.iter().map(|(_, name, _)| *name));
                return true;
            }
            drop(ending);
            let next = loop {
                let Some(what) = rest.next() else { break None };
                let action = Action { what, mood: Mood::Well };
                let next = Turn::take(self, world, action)
                    .filter(|next| next.broken.is_none())
                    .map(|next| self.node(next));
                if let Some(next) = next.filter(|(_, name, _)| seen.insert(*name)) {
                    break Some(next);
                }
            };
            match next {
                Some(next) => path.push(next),
                None => drop(path.pop()),
            }
        }
    }

    fn node(&self, world: World) -> (World, u64, std::vec::IntoIter<What>) {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let mut course = Vec::new();
        world.course(Hope::Little, self, &mut |what| course.push(what));
        (world, hasher.finish(), course.into_iter())
    }
}

impl Model for Setup {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut judge = Judge::default();
        for seen in
            [Seen::Opened { token: TOKEN }, Seen::Sent { message: 0, about: About::Work(TOKEN) }]
        {
            judge.see(&seen).expect("nothing is wrong yet");
        }
        let stores = self.ledgers.iter().max().map_or(0, |last| usize::from(*last) + 1);
        vec![World {
            sagemaker: Standing::Open { stopping: false },
            queue: [
                Copy::Visible { receives: 0 },
                Copy::Absent,
                Copy::Absent,
                Copy::Absent,
                Copy::Absent,
            ],
            foreign: false,
            denying: false,
            ledgers: vec![None; stores],
            workers: self.ledgers.iter().map(|ledger| Worker::new(*ledger)).collect(),
            wire: None,
            budget: self.budget,
            attempts: [0; 2],
            judge,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        let moods: &[Mood] = if world.budget.writes > 0 {
            &[Mood::Well, Mood::Fails, Mood::FailsAfterEffect]
        } else {
            &[Mood::Well]
        };
        let mut put = |what| actions.extend(moods.iter().map(|mood| Action { what, mood: *mood }));
        world.course(Hope::Anything, self, &mut put);
        world.faults(self, &mut put);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Turn::take(self, world, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SAFE, |_, world: &World| world.broken.is_none()),
            Property::always(SOUND, |_, world: &World| {
                world
                    .ledgers
                    .iter()
                    .flatten()
                    .all(|known| contradictions(known.record()).is_empty())
            }),
            Property::always(ENDS, |setup: &Setup, world: &World| {
                world.broken.is_some() || setup.can_end(world)
            }),
        ];
        properties.retain(|property| self.only.is_none_or(|only| only == property.name));
        properties
    }
}
