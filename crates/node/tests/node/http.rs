//! The least of an HTTP client.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    exchange(address, "GET", path, token, "", "").await
}

/// Sends JSON, or nothing for `null`.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    if_match: Option<&str>,
    body: &serde_json::Value,
) -> Answer {
    let body = match body.is_null() {
        true => String::new(),
        false => body.to_string(),
    };
    let mut head = format!(
        "content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    if let Some(tag) = if_match {
        head.push_str(&format!("if-match: {tag}\r\n"));
    }
    exchange(address, method, path, token, &head, &body).await
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    head: &str,
    body: &str,
) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let authorization = token
            .map(|token| format!("authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}{head}connection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(LIMIT, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        body: body.to_owned(),
    }
}

/// Asks until the answer is as wanted.
pub(crate) async fn eventually<F: Future<Output = Answer>>(
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&Answer) -> bool,
) -> Answer {
    let mut last = None;
    for _ in 0..500 {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        last = Some(answer);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the last of many answers was {last:?}");
}
