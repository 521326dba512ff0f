//! A service that writes down what it gets, however odd it is: it must not be the one who refuses.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::support::{Message, PATIENCE, ok};

pub(crate) const SAYS: &str = "passed";

/// Answers every request with 200 and [`SAYS`].
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = recorder.seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || serve(stream, &seen));
            }
        });
        recorder
    }

    /// The whole requests since the last call.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Message>>) {
    let mut reader = Reader {
        stream,
        bytes: Vec::new(),
    };
    reader.stream.set_nodelay(true).unwrap();
    // Pooled connections stay for longer than a test.
    reader.stream.set_read_timeout(Some(PATIENCE * 60)).unwrap();
    while let Some(request) = reader.request() {
        seen.lock().unwrap().push(request);
        if reader.stream.write_all(ok(SAYS).as_bytes()).is_err() {
            return;
        }
    }
}

struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Reader {
    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 16 << 10];
        let count = self
            .stream
            .read(&mut buffer)
            .ok()
            .filter(|count| *count > 0)?;
        self.bytes.extend(&buffer[..count]);
        Some(())
    }

    /// What comes before `end`, which is dropped.
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|part| part == end) {
                let part = self.bytes.drain(..at + end.len()).take(at).collect();
                return Some(part);
            }
            self.fill()?;
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < length {
            self.fill()?;
        }
        Some(self.bytes.drain(..length).collect())
    }

    /// A whole request; `None` when the stream ends before.
    fn request(&mut self) -> Option<Message> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let mut message = Message {
            first: lines.next().unwrap_or_default().to_owned(),
            headers: lines
                .map(|line| line.split_once(':').unwrap_or((line, "")))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            body: Vec::new(),
        };
        if message.header("transfer-encoding").is_some() {
            loop {
                let size = self.until(b"\r\n")?;
                let size = String::from_utf8_lossy(&size).into_owned();
                let digits = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16).ok()?;
                if size == 0 {
                    while !self.until(b"\r\n")?.is_empty() {}
                    break;
                }
                message.body.extend(self.exactly(size)?);
                self.until(b"\r\n")?;
            }
        } else if let Some(length) = message.header("content-length") {
            message.body = self.exactly(length.parse().ok()?)?;
        }
        Some(message)
    }
}
