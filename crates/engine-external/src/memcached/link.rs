//! One connection to one server: made in the background, watched, made again. Requests of many callers follow each other on it
//! without waiting for replies, which come in the same order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use sinew_core::{Backoff, Clock, Error, Kind, Result};
use sinew_engine::Health;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    ENGINE,
    wire::{self, Answers, Reply, Request},
};
use crate::{
    Address, Host, fault,
    socket::{Connector, Socket},
};

/// How often a connection is asked whether it lives.
const QUIET: Duration = Duration::from_secs(1);
/// Requests that wait to be written, and requests that wait for replies.
const WAITING: usize = 1024;
/// Requests that are written in one go.
const TOGETHER: usize = 256;

/// Whether a request may be sent again after the connection broke.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may have been carried out, and twice is not once.
    Never,
    /// It only reads, or deletes what is to be gone.
    Once,
}

/// The health of all connections together.
pub(super) struct Board {
    health: watch::Sender<Health>,
    places: Mutex<Vec<Health>>,
    clock: Clock,
}

impl Board {
    pub(super) fn new(places: usize, clock: Clock) -> (Arc<Self>, watch::Receiver<Health>) {
        let (health, seen) = watch::channel(Health::Starting);
        let places = Mutex::new(vec![Health::Starting; places]);
        (
            Arc::new(Self {
                health,
                places,
                clock,
            }),
            seen,
        )
    }

    pub(super) fn at(self: &Arc<Self>, place: usize) -> Place {
        Place {
            board: self.clone(),
            place,
        }
    }
}

/// One connection's place on the board.
pub(super) struct Place {
    board: Arc<Board>,
    place: usize,
}

impl Place {
    fn up(&self) {
        self.set(Health::Up);
    }

    fn away(&self, reason: String) -> bool {
        let since = self.board.clock.now();
        self.set(Health::Away { since, reason })
    }

    /// Whether that is news.
    fn set(&self, now: Health) -> bool {
        let mut places = self
            .board
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_away = |health: &Health| matches!(health, Health::Away { .. });
        if is_away(&places[self.place]) && is_away(&now) {
            return false;
        }
        places[self.place] = now;
        // One that is away, else one that has not been reached, else all are up.
        let all = places
            .iter()
            .find(|health| is_away(health))
            .or_else(|| places.iter().find(|health| !health.is_up()))
            .cloned()
            .unwrap_or(Health::Up);
        self.board.health.send_if_modified(|health| {
            let changed = *health != all;
            *health = all;
            changed
        });
        true
    }
}

type Answer = Result<Vec<Reply>>;

struct Asked {
    request: Request,
    answer: oneshot::Sender<Answer>,
}

/// An open connection.
#[derive(Clone)]
struct Line {
    requests: mpsc::Sender<Asked>,
    /// What tells the server's process from those before it.
    mark: u64,
}

enum State {
    Starting,
    Up(Line),
    Away(Error),
}

pub(super) struct Link {
    state: watch::Receiver<State>,
    timeout: Duration,
    keeper: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    pub(super) fn open(address: &Address, host: &Host, place: Place) -> Result<Self> {
        let (state, seen) = watch::channel(State::Starting);
        let login = address
            .user
            .as_ref()
            .zip(address.password())
            .map(|(user, password)| {
                let login = format!("{user} {password}");
                Bytes::from(format!("set login 0 0 {}\r\n{login}\r\n", login.len()))
            });
        let keeper = Keeper {
            connector: Connector::new(ENGINE, host, address.tls.as_ref())?,
            shown: host.to_string(),
            login,
            state,
            place,
            timeout: address.timeout,
        };
        Ok(Self {
            state: seen,
            timeout: address.timeout,
            keeper: tokio::spawn(keeper.run()),
        })
    }

    /// Sends a request, made for the server's process, and waits for the replies to it.
    pub(super) async fn ask(
        &self,
        again: Again,
        request: impl Fn(u64) -> Request,
    ) -> Result<(Vec<Reply>, u64)> {
        let line = self.line().await?;
        match send(&line, request(line.mark), self.timeout).await {
            Err(why) if again == Again::Once && why.kind() == Kind::Unavailable => {
                // The keeper needs a moment to see what this call saw.
                sleep(self.timeout / 50).await;
                let line = self.line().await?;
                let replies = send(&line, request(line.mark), self.timeout).await?;
                Ok((replies, line.mark))
            }
            replies => Ok((replies?, line.mark)),
        }
    }

    /// The connection; waits for it, but not longer than a call may take.
    async fn line(&self) -> Result<Line> {
        if let State::Up(line) = &*self.state.borrow() {
            return Ok(line.clone());
        }
        let mut state = self.state.clone();
        let settled = |state: &State| match state {
            State::Up(_) => true,
            State::Away(why) => !matches!(why.kind(), Kind::Unavailable | Kind::DeadlineExceeded),
            State::Starting => false,
        };
        // What it is when it has settled, or when the time is over.
        let _ = timeout(self.timeout, state.wait_for(settled)).await;
        match &*self.state.borrow() {
            State::Up(line) => Ok(line.clone()),
            State::Away(why) => Err(fault::repeat(ENGINE, why)),
            State::Starting => Err(fault::unavailable(ENGINE, "not reached yet")),
        }
    }
}

async fn send(line: &Line, request: Request, after: Duration) -> Answer {
    let (answer, answered) = oneshot::channel();
    let lost = || fault::unavailable(ENGINE, "the connection broke");
    let asked = async {
        line.requests
            .send(Asked { request, answer })
            .await
            .map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    };
    timeout(after, asked)
        .await
        .unwrap_or_else(|_| Err(fault::timeout(ENGINE, after)))
}

/// Makes the connection, and makes it again.
struct Keeper {
    connector: Connector,
    shown: String,
    login: Option<Bytes>,
    state: watch::Sender<State>,
    place: Place,
    timeout: Duration,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let connected = timeout(self.timeout, self.connector.connect());
            let why = match connected.await {
                Ok(Ok(socket)) => self.serve(socket, &mut backoff).await,
                Ok(Err(why)) => why,
                Err(_) => fault::unavailable(ENGINE, "no connection in time"),
            };
            if self.place.away(format!("{}: {}", self.shown, why.detail())) {
                let reason = why.detail();
                tracing::warn!(engine = ENGINE, server = self.shown, reason, "away");
            }
            self.state.send_replace(State::Away(why));
            sleep(backoff.next_delay()).await;
        }
    }

    /// Works with a connection until it breaks.
    async fn serve(&self, socket: Socket, backoff: &mut Backoff) -> Error {
        let (from, to) = tokio::io::split(socket);
        let (requests, waiting) = mpsc::channel(WAITING);
        let (sent, unanswered) = mpsc::channel(WAITING);
        let writer = write(to, waiting, sent);
        let reader = read(from, unanswered, self.timeout);
        let line = Line { requests, mark: 0 };
        // Three in one task: when one ends, the connection has.
        tokio::select! {
            why = writer => why,
            why = reader => why,
            why = self.watch(line, backoff) => why,
        }
    }

    /// Logs in, lets callers in, and asks from time to time whether the server lives.
    async fn watch(&self, mut line: Line, backoff: &mut Backoff) -> Error {
        match self.greet(&line).await {
            Ok(mark) => line.mark = mark,
            Err(why) => return why,
        }
        backoff.reset();
        tracing::info!(engine = ENGINE, server = self.shown, "connected");
        self.state.send_replace(State::Up(line.clone()));
        self.place.up();
        loop {
            sleep(QUIET).await;
            let request = Request {
                text: Bytes::from_static(b"mn\r\n"),
                answers: Answers::Replies(1),
            };
            if let Err(why) = send(&line, request, self.timeout.min(2 * QUIET)).await {
                return fault::unavailable(ENGINE, why.detail());
            }
        }
    }

    /// The mark of the server's process.
    async fn greet(&self, line: &Line) -> Result<u64> {
        if let Some(login) = &self.login {
            let request = Request {
                text: login.clone(),
                answers: Answers::Replies(1),
            };
            if let Some(reply) = send(line, request, self.timeout).await?.pop()
                && reply != Reply::Well
            {
                return Err(reply.unexpected());
            }
        }
        let request = Request {
            text: Bytes::from_static(b"stats\r\n"),
            answers: Answers::Lines,
        };
        let mut lines = Vec::new();
        for reply in send(line, request, self.timeout).await? {
            match reply {
                Reply::Line(text) => lines.push(text),
                other => return Err(other.unexpected()),
            }
        }
        let field = |name| wire::field(&lines, name);
        match (field("pid"), field("time"), field("uptime")) {
            (Some(pid), Some(time), Some(uptime)) => {
                let began = time.wrapping_sub(uptime);
                let both = [pid.to_le_bytes(), began.to_le_bytes()].concat();
                let hash = super::place::hash(&both);
                Ok((hash ^ hash >> 32) & ((1 << (64 - super::TOKEN_BITS)) - 1))
            }
            _ => Err(fault::unsuitable(
                ENGINE,
                "it does not say when it was started",
            )),
        }
    }
}

struct Unanswered {
    answers: Answers,
    answer: oneshot::Sender<Answer>,
}

async fn write(
    mut to: WriteHalf<Socket>,
    mut waiting: mpsc::Receiver<Asked>,
    sent: mpsc::Sender<Unanswered>,
) -> Error {
    let (mut batch, mut text) = (Vec::with_capacity(TOGETHER), BytesMut::new());
    while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
        for Asked { request, answer } in batch.drain(..) {
            text.extend_from_slice(&request.text);
            let answers = request.answers;
            if sent.send(Unanswered { answers, answer }).await.is_err() {
                return fault::unavailable(ENGINE, "the connection broke");
            }
        }
        if let Err(why) = to.write_all_buf(&mut text).await {
            return fault::unavailable(ENGINE, why.to_string());
        }
    }
    fault::unavailable(ENGINE, "nobody asks any more")
}

async fn read(
    mut from: ReadHalf<Socket>,
    mut unanswered: mpsc::Receiver<Unanswered>,
    patience: Duration,
) -> Error {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    while let Some(Unanswered { answers, answer }) = unanswered.recv().await {
        let mut replies = Vec::new();
        loop {
            if answers == Answers::Replies(replies.len()) {
                break;
            }
            match wire::parse(&mut buffer, answers == Answers::Lines) {
                Ok(Some(Reply::Line(line))) if line == "END" => break,
                Ok(Some(reply)) => {
                    let last = matches!(&reply, Reply::Failed(_))
                        || matches!(&reply, Reply::Line(line) if line.starts_with("BUSY"));
                    replies.push(reply);
                    // A list that is refused is this one line.
                    if last && answers == Answers::Lines {
                        break;
                    }
                }
                Ok(None) => match timeout(patience, from.read_buf(&mut buffer)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0)) => {
                        return fault::unavailable(ENGINE, "the server ended the connection");
                    }
                    Ok(Err(why)) => return fault::unavailable(ENGINE, why.to_string()),
                    Err(_) => {
                        return fault::unavailable(ENGINE, format!("no answer in {patience:?}"));
                    }
                },
                Err(why) => return why,
            }
        }
        // The caller may have gone.
        let _ = answer.send(Ok(replies));
    }
    fault::unavailable(ENGINE, "nobody asks any more")
}
