//! Running the executable, reading what it says, and asking what it serves.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

/// Far more than anything needs, on a busy machine, without optimisation.
pub(crate) const LONG: Duration = Duration::from_secs(180);

/// The executable under test.
pub(crate) const SINEW: &str = env!("CARGO_BIN_EXE_sinew");

/// A running `sinew`, killed with -9 when dropped.
pub(crate) struct Program {
    child: Child,
    words: String,
    out: Lines,
    err: Lines,
    readers: [JoinHandle<()>; 2],
}

/// How a program ended and what it had said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Program {
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Self {
        Self::start_with(args, &[])
    }

    pub(crate) fn start_with<S: AsRef<std::ffi::OsStr>>(args: &[S], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(SINEW)
            .args(args)
            .env_remove("SINEW_URL")
            .env_remove("SINEW_TOKEN")
            .env("RUST_BACKTRACE", "0")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let words = args
            .iter()
            .map(|arg| arg.as_ref().to_string_lossy().into_owned());
        let words = words.collect::<Vec<_>>().join(" ");
        let (out, out_reader) = collect(child.stdout.take().unwrap());
        let (err, err_reader) = collect(child.stderr.take().unwrap());
        Self {
            child,
            words,
            out,
            err,
            readers: [out_reader, err_reader],
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Kills it with -9 and waits until it is gone.
    pub(crate) async fn kill_9(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// The first JSON line on standard output with this `event`.
    pub(crate) async fn event(&mut self, event: &str) -> Value {
        let out = self.out.clone();
        let find = move || {
            let lines = out.lock();
            let mut values = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            values.find(|value: &Value| value["event"] == event)
        };
        self.wait_for(event, find).await
    }

    /// A way to see the lines on standard output that fit, as they come.
    pub(crate) fn lines(&self, fits: fn(&str) -> bool) -> impl Fn() -> Vec<String> + use<> {
        let out = self.out.clone();
        move || {
            out.lock()
                .iter()
                .filter(|line| fits(line))
                .cloned()
                .collect()
        }
    }

    /// As [`Program::lines`], of standard error.
    pub(crate) fn errors(&self, fits: fn(&str) -> bool) -> impl Fn() -> Vec<String> + use<> {
        let err = self.err.clone();
        move || {
            err.lock()
                .iter()
                .filter(|line| fits(line))
                .cloned()
                .collect()
        }
    }

    /// Waits until `find` finds something; panics when the program ends first.
    pub(crate) async fn wait_for<T>(&mut self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = find() {
                    return Some(found);
                }
                if self.child.try_wait().unwrap().is_some() {
                    // The last lines may still be on their way.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return find();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(LONG, wait).await.ok().flatten();
        found.unwrap_or_else(|| panic!("`sinew {}`: no {what}\n{}", self.words, self.said()))
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = tokio::time::timeout(LONG, self.child.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("`sinew {}` goes on\n{}", self.words, self.said()));
        // The readers end with the pipes; a child that kept one open would be a fault of its own.
        for reader in self.readers {
            tokio::time::timeout(LONG, reader)
                .await
                .expect("the pipes are closed")
                .unwrap();
        }
        let text = |lines: &Lines| lines.lock().join("\n");
        Ended {
            code: status.unwrap().code(),
            out: text(&self.out),
            err: text(&self.err),
        }
    }

    fn said(&self) -> String {
        format!(
            "{}\n--\n{}",
            self.out.lock().join("\n"),
            self.err.lock().join("\n")
        )
    }
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let reader = tokio::spawn({
        let lines = lines.clone();
        async move {
            let mut stream = BufReader::new(stream).lines();
            while let Ok(Some(line)) = stream.next_line().await {
                lines.lock().push(line);
            }
        }
    });
    (lines, reader)
}

/// Runs `sinew` to its end.
pub(crate) async fn sinew<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ended {
    Program::start(args).ended().await
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Whether a process runs. A zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'));
    kill(Pid::from_raw(pid as i32), None) != Err(Errno::ESRCH) && !zombie
}

/// An address on which nothing listens, for what must keep its address over a restart. Its port lies
/// below those that the system hands out for port 0, so that nobody takes it by chance.
pub(crate) fn free_address() -> SocketAddr {
    loop {
        let port = rand::random_range(20_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// `http://127.0.0.1:8080` as an address.
pub(crate) fn address_of(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// One request on a connection of its own: status and JSON (or null). `None` without an answer.
pub(crate) async fn http(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Option<(u16, Value)> {
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("/{path}"));
        request = request
            .header("host", address)
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    };
    tokio::time::timeout(Duration::from_secs(30), exchange)
        .await
        .ok()
        .flatten()
}

/// Asks again until the answer has this status.
pub(crate) async fn http_until(
    status: u16,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Value {
    let wait = async {
        loop {
            match http(method, url, headers, body.clone()).await {
                Some((got, answer)) if got == status => return answer,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let answer = tokio::time::timeout(LONG, wait).await;
    answer.unwrap_or_else(|_| panic!("{method} {url} never answered {status}"))
}

/// A file's text, without the white space around it.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}
