//! The connections of the status server and of the admin socket. Every client is accepted: beyond a
//! maximum, a new connection replaces the one that has been idle longest, so that unused sockets
//! can never block a health check. Nor can a lack of descriptors: one is reserved.

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A scraper, a health check and a few people at once; the daemon's memory and descriptors are for
/// its work.
pub(super) const CONNECTIONS: usize = 64;
/// How long a request's head may take to arrive. Load balancers and Prometheus give up after about
/// as long.
const HEAD: Duration = Duration::from_secs(10);
/// How long a closing connection may take to finish its answer: the process waits for it at its
/// end.
const CLOSING: Duration = Duration::from_secs(2);
/// How long to pause after accepting has failed, as it does without descriptors.
const PAUSE: Duration = Duration::from_millis(500);
/// What the reserved descriptor refers to.
const NOTHING: &str = "/dev/null";
/// No known client sends more; hyper's smallest buffer is 8 KiB.
pub(super) const HEADERS: usize = 64;
pub(super) const HEAD_BYTES: usize = 16 * 1024;

/// Where connections come from.
pub(super) trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// After this long a connection is closed once idle.
    const LIFE: Duration;

    /// The next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    /// One that nothing reads from is not kept.
    const LIFE: Duration = Duration::from_mins(5);

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _): (TcpStream, SocketAddr) = Self::accept(self).await?;
        Ok(stream)
    }
}

/// Answers all connections until `stop`, then finishes pending answers. It starts no task: all
/// connections are driven from here.
pub(super) async fn serve_all<L: Listener>(listener: L, router: Router, stop: CancellationToken) {
    let seats = Arc::new(Seats::default());
    let mut connections = FuturesUnordered::new();
    let mut pause = Instant::now();
    let mut spare = File::open(NOTHING).ok();
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Before the next is accepted, each has read what has arrived for it: a complete
            // request is answered.
            Some(()) = connections.next() => spare = spare.or_else(|| File::open(NOTHING).ok()),
            accepted = accept(&listener, pause) => match accepted {
                Ok(stream) => {
                    failures = 0;
                    if connections.len() >= CONNECTIONS {
                        seats.shed();
                    }
                    connections.push(serve(stream, router.clone(), seats.take(), &stop, L::LIFE));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    // A descriptor may be missing. The next connection gets the reserved one, and
                    // returns it at its end.
                    if spare.take().is_none() {
                        // Without one the kernel fails even if no client waits to be accepted: the
                        // latest one is answered first.
                        if failures > 0 {
                            seats.shed();
                        }
                        failures += 1;
                        pause = Instant::now() + PAUSE;
                    }
                }
            }
        }
    }
    drop(listener);
    while connections.next().await.is_some() {}
}

async fn accept<L: Listener>(listener: &L, pause: Instant) -> io::Result<L::Stream> {
    sleep_until(pause).await;
    listener.accept().await
}

/// Serves one connection until it ends, is replaced, or must close: after `life`, once idle.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    seat: Seat,
    stop: &CancellationToken,
    life: Duration,
) {
    let shed = seat.shed.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| answer(&router, &seat, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How a connection ends, by a reset or a bad request, is its client's concern.
    tokio::select! {
        biased;
        () = shed.cancelled() => return,
        _ = &mut connection => return,
        () = stop.cancelled() => {}
        () = sleep(life) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        () = shed.cancelled() => {}
        _ = timeout(CLOSING, connection) => {}
    }
}

fn answer(
    router: &TowerToHyperService<Router>,
    seat: &Seat,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let busy = seat.work();
    let response = router.call(request);
    async move {
        let _busy = busy;
        response.await
    }
}

/// The connections, and since when each is idle.
#[derive(Default)]
pub(super) struct Seats(Mutex<State>);

#[derive(Default)]
struct State {
    taken: Vec<Taken>,
    /// Counts all events, to order them.
    moment: u64,
}

struct Taken {
    name: u64,
    /// When it was accepted, or last had a request answered.
    since: u64,
    busy: bool,
    shed: CancellationToken,
}

/// The place of one connection; returned when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    name: u64,
    shed: CancellationToken,
}

/// A request that is being answered.
struct Work {
    seats: Arc<Seats>,
    name: u64,
}

impl Seats {
    pub(super) fn take(self: &Arc<Self>) -> Seat {
        let mut state = self.lock();
        let name = state.tick();
        let shed = CancellationToken::new();
        state.taken.push(Taken { name, since: name, busy: false, shed: shed.clone() });
        Seat { seats: self.clone(), name, shed }
    }

    /// Closes the connection that has been idle longest; if all are busy, the one that has been
    /// busy longest.
    fn shed(&self) {
        let mut state = self.lock();
        let first =
            state.taken.iter().enumerate().min_by_key(|(_, taken)| (taken.busy, taken.since));
        if let Some(at) = first.map(|(at, _)| at) {
            state.taken.swap_remove(at).shed.cancel();
        }
    }

    fn change(&self, name: u64, change: impl FnOnce(&mut Taken, u64)) {
        let mut state = self.lock();
        let now = state.tick();
        if let Some(taken) = state.taken.iter_mut().find(|taken| taken.name == name) {
            change(taken, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }
}

impl Seat {
    fn work(&self) -> Work {
        self.seats.change(self.name, |taken, now| (taken.busy, taken.since) = (true, now));
        Work { seats: self.seats.clone(), name: self.name }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().taken.retain(|taken| taken.name != self.name);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.seats.change(self.name, |taken, now| (taken.busy, taken.since) = (false, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_done_nothing_for_longest_is_shed_first_and_who_is_at_work_last() {
        let seats = Arc::new(Seats::default());
        let [first, second, third] = [seats.take(), seats.take(), seats.take()];
        drop(first.work());
        let work = third.work();
        let shed = || [&first, &second, &third].map(|seat| seat.shed.is_cancelled());
        seats.shed();
        assert_eq!(shed(), [false, true, false]);
        seats.shed();
        assert_eq!(shed(), [true, true, false]);
        seats.shed();
        assert_eq!(shed(), [true, true, true]);
        drop(work);
        seats.shed();
    }

    #[test]
    fn a_connection_that_has_ended_gives_its_seat_up() {
        let seats = Arc::new(Seats::default());
        let (gone, here) = (seats.take(), seats.take());
        drop(gone);
        seats.shed();
        assert!(here.shed.is_cancelled());
    }
}
