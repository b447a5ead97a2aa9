use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

/// Steps that keep the slots they are granted, unless they have gone.
#[derive(Default)]
struct Steps {
    granted: Mutex<Vec<(CallbackToken, Slot)>>,
    gone: Mutex<BTreeSet<CallbackToken>>,
}

impl Grants<Slot> for Steps {
    fn granted(&self, token: CallbackToken, slot: Slot) {
        if !self.gone.lock().unwrap().contains(&token) {
            self.granted.lock().unwrap().push((token, slot));
        }
    }
}

impl Steps {
    fn take(&self) -> Vec<(CallbackToken, Slot)> {
        std::mem::take(&mut self.granted.lock().unwrap())
    }

    fn names(&self) -> Vec<String> {
        self.granted.lock().unwrap().iter().map(|(token, _)| token.to_string()).collect()
    }
}

fn slots(limit: usize) -> (Slots, Arc<Steps>) {
    let (slots, steps) = (Slots::new(limit), Arc::new(Steps::default()));
    let grants: Arc<dyn Grants<Slot>> = steps.clone();
    slots.grants_to(Arc::downgrade(&grants));
    (slots, steps)
}

fn token(name: &str) -> CallbackToken {
    format!("{name:0>10}").parse().unwrap()
}

fn numbered(number: usize) -> CallbackToken {
    token(&number.to_string())
}

#[tokio::test]
async fn a_poll_gets_no_more_room_than_there_are_free_slots() {
    let (slots, _steps) = slots(12);
    let first = slots.reserve(10).await;
    let second = slots.reserve(10).await;
    assert_eq!((first.len(), second.len()), (10, 2));
    assert!(slots.reserve(10).now_or_never().is_none());
    drop(second);
    assert_eq!(slots.reserve(10).await.len(), 2);
}

#[tokio::test]
async fn an_idle_poll_holds_up_no_step_that_goes_on() {
    let (slots, steps) = slots(1);
    let reserved = slots.reserve(10).await.pop();
    let resumed = slots.acquire(&token("resumed"), None).expect("a slot at once");
    assert!(slots.acquire(&token("brought"), reserved).is_none());
    drop(resumed);
    assert_eq!(steps.names(), ["000brought"]);
    assert_eq!(slots.usage(), Usage { busy: 1, limit: 1, waiting_new: 0, waiting_resumed: 0 });
}

#[tokio::test]
async fn a_slot_is_not_lost_on_one_who_waited_and_went() {
    let (slots, steps) = slots(1);
    let first = slots.acquire(&token("first"), None);
    for name in ["left", "gone", "waits"] {
        assert!(slots.acquire(&token(name), None).is_none());
    }
    assert!(slots.leave(&token("left")));
    assert!(!slots.leave(&token("left")));
    steps.gone.lock().unwrap().insert(token("gone"));
    drop(first);
    assert_eq!(steps.names(), ["00000waits"]);
    drop(steps.take());
    assert_eq!(slots.reserve(10).await.len(), 1);
}

#[tokio::test]
async fn new_steps_and_those_that_go_on_take_turns() {
    let (slots, steps) = slots(4);
    let room = slots.reserve(4).await;
    let mut busy: VecDeque<Slot> =
        (0..4).filter_map(|at| slots.acquire(&numbered(at), None)).collect();
    for (at, room) in room.into_iter().enumerate() {
        assert!(slots.acquire(&token(&format!("new{at}")), Some(room)).is_none());
    }
    for at in 0..4 {
        assert!(slots.acquire(&token(&format!("old{at}")), None).is_none());
    }
    let mut served = Vec::new();
    for _ in 0..8 {
        busy.pop_front();
        for (token, slot) in steps.take() {
            served.push(token.as_str().trim_start_matches('0').to_owned());
            busy.push_back(slot);
        }
    }
    assert_eq!(served, ["new0", "old0", "new1", "old1", "new2", "old2", "new3", "old3"]);
}

#[tokio::test]
async fn steps_that_go_on_leave_polls_half_the_limit() {
    let (slots, steps) = slots(10);
    let busy: Vec<_> = (0..10).filter_map(|at| slots.acquire(&numbered(at), None)).collect();
    let waits = slots.reserve(10);
    tokio::pin!(waits);
    assert!(waits.as_mut().now_or_never().is_none());
    assert!(slots.acquire(&token("old"), None).is_none());
    let room = waits.now_or_never().expect("the first that goes on makes room for new ones");
    assert_eq!(room.len(), 5);
    assert!(slots.try_reserve(10).is_empty());
    for (at, room) in room.into_iter().enumerate() {
        assert!(slots.acquire(&token(&format!("new{at}")), Some(room)).is_none());
    }
    assert!(slots.try_reserve(10).is_empty(), "what was brought and waits still counts");
    drop(busy);
    assert_eq!(steps.take().len(), 6);
}

#[tokio::test]
async fn a_poll_that_looks_ahead_brings_a_few_who_wait_in_turn() {
    let (slots, steps) = slots(1);
    let busy = slots.acquire(&token("busy"), None);
    let mut room = slots.reserve_ahead(100).await;
    assert_eq!(room.len(), AHEAD);
    let waits = slots.reserve_ahead(1);
    tokio::pin!(waits);
    assert!(waits.as_mut().now_or_never().is_none());
    for name in ["first", "second"] {
        assert!(slots.acquire(&token(name), room.pop()).is_none());
    }
    assert!(waits.as_mut().now_or_never().is_none(), "those who wait are held too");
    drop(busy);
    assert_eq!(steps.names(), ["00000first"]);
    assert_eq!(waits.now_or_never().expect("one less is held").len(), 1);
    drop(room);
    drop(steps.take());
    assert_eq!(steps.names(), ["0000second"]);
}

#[tokio::test]
async fn room_of_another_queue_goes_back_there() {
    let ((here, _), (there, _)) = (slots(1), slots(1));
    let room = there.reserve(1).await.pop();
    let slot = here.acquire(&token("step"), room);
    assert!(slot.is_some());
    assert_eq!(there.reserve(1).await.len(), 1);
}

#[tokio::test]
async fn a_step_that_asks_again_keeps_its_place() {
    let (slots, steps) = slots(1);
    let slot = slots.acquire(&token("busy"), None);
    for name in ["one", "two", "one"] {
        assert!(slots.acquire(&token(name), None).is_none());
    }
    let mut room = slots.try_reserve(1);
    assert!(slots.acquire(&token("one"), room.pop()).is_none());
    assert_eq!(slots.usage(), Usage { busy: 1, limit: 1, waiting_new: 0, waiting_resumed: 2 });
    let mut room = slots.try_reserve(1);
    for room in [room.pop(), None] {
        assert!(slots.acquire(&token("new"), room).is_none());
    }
    assert_eq!(slots.usage(), Usage { busy: 1, limit: 1, waiting_new: 1, waiting_resumed: 2 });
    drop(slot);
    drop(steps.take());
    drop(steps.take());
    assert_eq!(steps.names(), ["0000000two"]);
}

#[tokio::test(start_paused = true)]
async fn gathering_ends_as_soon_as_there_is_room_for_all_or_patience_is_over() {
    const PATIENCE: Duration = Duration::from_millis(5);
    let (slots, _steps) = slots(3);
    let began = Instant::now();
    drop(slots.reserve_up_to(10, PATIENCE).await);
    assert_eq!(began.elapsed(), Duration::ZERO, "no more can come free than there are");

    let mut busy: Vec<_> = (0..2).filter_map(|at| slots.acquire(&numbered(at), None)).collect();
    let gathered = slots.reserve_up_to(10, PATIENCE).await;
    assert_eq!((gathered.len(), began.elapsed()), (1, PATIENCE));
    drop(gathered);

    let gather = slots.reserve_up_to(10, PATIENCE);
    tokio::pin!(gather);
    assert!(gather.as_mut().now_or_never().is_none());
    busy.pop();
    assert!(gather.as_mut().now_or_never().is_none());
    busy.pop();
    assert_eq!(gather.now_or_never().expect("all are free").len(), 3);
    assert_eq!(began.elapsed(), PATIENCE);
}

#[test]
fn a_hundred_thousand_who_have_gone_are_passed_over_at_once() {
    let slots = Slots::new(1);
    let slot = slots.acquire(&token("busy"), None);
    for at in 0..100_000 {
        assert!(slots.acquire(&numbered(at), None).is_none());
    }
    drop(slot);
    assert_eq!(slots.usage(), Usage { busy: 0, limit: 1, waiting_new: 0, waiting_resumed: 0 });
}

/// Threads that arrive, wait, leave and are granted slots in any order.
#[test]
fn nobody_is_forgotten_between_threads() {
    const EACH: usize = 3_000;
    const LIMIT: usize = 3;
    struct Work {
        out: AtomicUsize,
        most: AtomicUsize,
        served: AtomicUsize,
        held: Mutex<Vec<Slot>>,
    }
    impl Work {
        /// A slot is kept for a while by the step that has it.
        fn serve(&self, slot: Slot) {
            self.most.fetch_max(self.out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            self.served.fetch_add(1, Ordering::SeqCst);
            self.held.lock().unwrap().push(slot);
        }

        fn end_one(&self) {
            let slot = self.held.lock().unwrap().pop();
            if let Some(slot) = slot {
                self.out.fetch_sub(1, Ordering::SeqCst);
                drop(slot);
            }
        }
    }
    impl Grants<Slot> for Work {
        fn granted(&self, _: CallbackToken, slot: Slot) {
            self.serve(slot);
        }
    }
    let slots = Slots::new(LIMIT);
    let work = Arc::new(Work {
        out: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        served: AtomicUsize::new(0),
        held: Mutex::default(),
    });
    let grants: Arc<dyn Grants<Slot>> = work.clone();
    slots.grants_to(Arc::downgrade(&grants));
    let left = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (slots, work, left) = (&slots, &work, &left);
            scope.spawn(move || {
                for at in 0..EACH {
                    let token = numbered(thread * EACH + at);
                    let room = if at % 3 == 0 { slots.try_reserve(1).pop() } else { None };
                    if let Some(slot) = slots.acquire(&token, room) {
                        work.serve(slot);
                    } else if at % 7 == 0 && slots.leave(&token) {
                        left.fetch_add(1, Ordering::SeqCst);
                    }
                    work.end_one();
                }
            });
        }
    });
    while work.out.load(Ordering::SeqCst) > 0 {
        work.end_one();
    }
    assert_eq!(work.served.load(Ordering::SeqCst) + left.load(Ordering::SeqCst), 4 * EACH);
    assert!(work.most.load(Ordering::SeqCst) <= LIMIT);
    assert_eq!(slots.usage(), Usage { busy: 0, limit: LIMIT, waiting_new: 0, waiting_resumed: 0 });
    assert_eq!(slots.try_reserve(10).len(), LIMIT);
}

#[derive(Clone, Debug)]
enum Op {
    /// A poll waits for room for this many.
    Poll(usize),
    /// A poll that was woken looks again.
    Look(usize),
    /// A waiting poll gives up, although it may just have been woken.
    GiveUp(usize),
    Reserve(usize),
    /// A poll looks ahead.
    Ahead(usize),
    Return(usize),
    Arrive(usize),
    Resume,
    Finish(usize),
    Leave(usize),
    /// A waiting step leaves without leaving the line.
    Go(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1..5_usize).prop_map(Op::Poll),
        4 => any::<usize>().prop_map(Op::Look),
        1 => any::<usize>().prop_map(Op::GiveUp),
        2 => (1..5_usize).prop_map(Op::Reserve),
        1 => (1..12_usize).prop_map(Op::Ahead),
        1 => any::<usize>().prop_map(Op::Return),
        5 => any::<usize>().prop_map(Op::Arrive),
        5 => Just(Op::Resume),
        6 => any::<usize>().prop_map(Op::Finish),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Go),
    ]
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Waiting<'a> {
    poll: Pin<Box<dyn Future<Output = Vec<Reservation>> + 'a>>,
    woken: Arc<Woken>,
}

impl Waiting<'_> {
    fn look(&mut self) -> Option<Vec<Reservation>> {
        self.woken.0.store(false, Ordering::SeqCst);
        match self.poll.as_mut().poll(&mut Context::from_waker(&Waker::from(self.woken.clone()))) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        }
    }
}

/// What the slots should do, written as simply as possible.
#[derive(Default)]
struct Model {
    limit: usize,
    new: VecDeque<CallbackToken>,
    resumed: VecDeque<CallbackToken>,
    gone: BTreeSet<CallbackToken>,
    last_new: bool,
}

impl Model {
    fn room(&self, busy: usize, reserved: usize) -> usize {
        let brought = reserved + self.new.len();
        let mut room = 0;
        while busy + brought + room < self.limit
            || (!self.resumed.is_empty() && brought + room < (self.limit / 2).max(1))
        {
            room += 1;
        }
        room
    }

    fn ahead(&self, reserved: usize) -> usize {
        AHEAD.saturating_sub(reserved + self.new.len())
    }

    /// The step that is served when a slot becomes free.
    fn served(&mut self) -> Option<CallbackToken> {
        loop {
            self.last_new = match (self.new.is_empty(), self.resumed.is_empty()) {
                (true, true) => return None,
                (false, false) => !self.last_new,
                (_, resumed_is_empty) => resumed_is_empty,
            };
            let next = if self.last_new { self.new.pop_front() } else { self.resumed.pop_front() };
            if let Some(next) = next.filter(|next| !self.gone.contains(next)) {
                return Some(next);
            }
        }
    }
}

/// How many were reserved within the slots.
fn within(rooms: &[Reservation]) -> usize {
    rooms.iter().filter(|room| !room.is_ahead()).count()
}

fn at<T>(list: &mut Vec<T>, at: usize) -> Option<T> {
    if list.is_empty() { None } else { Some(list.swap_remove(at % list.len())) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_do_what_the_model_says(limit in 1..6_usize, ops in prop::collection::vec(op(), 0..120)) {
        let (slots, steps) = slots(limit);
        let mut model = Model { limit, ..Model::default() };
        let mut polls: Vec<Waiting> = Vec::new();
        let mut rooms: Vec<Reservation> = Vec::new();
        let mut busy: Vec<Slot> = Vec::new();
        for (number, op) in ops.into_iter().enumerate() {
            let token = numbered(number);
            match op {
                Op::Poll(most) => {
                    let room = model.room(busy.len(), within(&rooms));
                    let mut poll = Waiting { poll: Box::pin(slots.reserve(most)), woken: Arc::default() };
                    match poll.look() {
                        Some(reserved) => {
                            prop_assert_eq!(reserved.len(), room.min(most));
                            rooms.extend(reserved);
                        }
                        None => {
                            prop_assert_eq!(room, 0);
                            polls.push(poll);
                        }
                    }
                }
                Op::Look(which) => {
                    let woken: Vec<usize> =
                        (0..polls.len()).filter(|at| polls[*at].woken.0.load(Ordering::SeqCst)).collect();
                    if !woken.is_empty() {
                        let mut poll = polls.swap_remove(woken[which % woken.len()]);
                        match poll.look() {
                            Some(reserved) => rooms.extend(reserved),
                            None => polls.push(poll),
                        }
                    }
                }
                Op::GiveUp(which) => drop(at(&mut polls, which)),
                Op::Reserve(most) => {
                    let reserved = slots.try_reserve(most);
                    prop_assert_eq!(reserved.len(), model.room(busy.len(), within(&rooms)).min(most));
                    rooms.extend(reserved);
                }
                Op::Ahead(most) => {
                    let room = model.ahead(rooms.len() - within(&rooms));
                    prop_assert_eq!(slots.has_room_ahead(), room > 0);
                    let reserved = slots.reserve_ahead(most).now_or_never().unwrap_or_default();
                    prop_assert_eq!(reserved.len(), room.min(most));
                    rooms.extend(reserved);
                }
                Op::Return(which) => drop(at(&mut rooms, which)),
                Op::Arrive(_) | Op::Resume => {
                    let room = match op {
                        Op::Arrive(which) => at(&mut rooms, which),
                        _ => None,
                    };
                    let new = room.is_some();
                    let free = busy.len() < limit;
                    let slot = slots.acquire(&token, room);
                    prop_assert_eq!(slot.is_some(), free);
                    match slot {
                        Some(slot) => busy.push(slot),
                        None if new => model.new.push_back(token),
                        None => model.resumed.push_back(token),
                    }
                }
                Op::Finish(which) => {
                    if let Some(slot) = at(&mut busy, which) {
                        drop(slot);
                        let granted = steps.take();
                        let served: Vec<_> = granted.iter().map(|(token, _)| token.clone()).collect();
                        prop_assert_eq!(served, Vec::from_iter(model.served()));
                        busy.extend(granted.into_iter().map(|(_, slot)| slot));
                    }
                }
                Op::Leave(which) | Op::Go(which) => {
                    let waiting: Vec<_> = model.new.iter().chain(&model.resumed).cloned().collect();
                    if !waiting.is_empty() {
                        let token = waiting[which % waiting.len()].clone();
                        if matches!(op, Op::Leave(_)) {
                            prop_assert!(slots.leave(&token));
                            model.new.retain(|other| *other != token);
                            model.resumed.retain(|other| *other != token);
                        } else {
                            steps.gone.lock().unwrap().insert(token.clone());
                            model.gone.insert(token);
                        }
                    }
                }
            }
            prop_assert!(busy.len() <= limit);
            prop_assert!(busy.len() == limit || (model.new.is_empty() && model.resumed.is_empty()));
            prop_assert_eq!(slots.usage(), Usage {
                busy: busy.len(),
                limit,
                waiting_new: model.new.len(),
                waiting_resumed: model.resumed.len(),
            });
            let somebody_looks = polls.iter().any(|poll| poll.woken.0.load(Ordering::SeqCst));
            prop_assert!(
                polls.is_empty() || somebody_looks || model.room(busy.len(), within(&rooms)) == 0,
                "there is room, and no poll knows"
            );
        }
        drop((busy, rooms));
        while let Some((_, slot)) = steps.take().pop() {
            drop(slot);
        }
        prop_assert_eq!(slots.usage(), Usage { busy: 0, limit, waiting_new: 0, waiting_resumed: 0 });
    }
}
