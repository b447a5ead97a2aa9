//! Whether every state has a way to rest, once nothing goes wrong any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::Model;

use crate::world::World;

/// A state that can be reached and from which no state of rest can be, if there is one.
pub fn without_a_way<M: Model<State = World>>(model: &M) -> Option<World> {
    let mut healed = Graph::default();
    let mut seen = HashSet::new();
    let mut waiting: VecDeque<World> = model.init_states().into();
    while let Some(world) = waiting.pop_front() {
        if seen.insert(fingerprint(&world)) {
            healed.enter(world.healed());
            waiting.extend(model.next_states(&world));
        }
    }
    while let Some((from, world)) = healed.waiting.pop_front() {
        for next in model.next_states(&world) {
            let to = healed.enter(next);
            healed.comes_from[to].push(from);
        }
        // Kept only for what it may have to tell.
        healed.worlds[from] = Some(world);
    }
    let hopeless = healed.hopeless()?;
    healed.worlds.swap_remove(hopeless)
}

/// The states of a world in which nothing goes wrong any more.
#[derive(Default)]
struct Graph {
    known: HashMap<u64, usize>,
    waiting: VecDeque<(usize, World)>,
    worlds: Vec<Option<World>>,
    at_rest: Vec<usize>,
    comes_from: Vec<Vec<usize>>,
}

impl Graph {
    fn enter(&mut self, world: World) -> usize {
        let new = self.known.len();
        let at = *self.known.entry(fingerprint(&world)).or_insert(new);
        if at == new {
            if world.is_at_rest() {
                self.at_rest.push(at);
            }
            self.comes_from.push(Vec::new());
            self.worlds.push(None);
            self.waiting.push_back((at, world));
        }
        at
    }

    fn hopeless(&self) -> Option<usize> {
        let mut rests = vec![false; self.worlds.len()];
        let mut waiting = self.at_rest.clone();
        while let Some(at) = waiting.pop() {
            if !std::mem::replace(&mut rests[at], true) {
                waiting.extend(&self.comes_from[at]);
            }
        }
        rests.iter().position(|rests| !rests)
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
