//! A small HTTP client for the control API of a running node: one request, one connection.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use sinew_core::{Error, Kind, Problem};
use sinew_node::{Config, DataFolder, Endpoints, Sources};
use tokio::net::TcpStream;

/// How long the node may take to answer; it answers such questions from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to begin, and then to go on with, a long answer.
const DOWNLOAD: Duration = Duration::from_secs(60);
/// No listing is longer than this.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// A request to the control API.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    /// With its query.
    pub(crate) path: &'a str,
    /// The version that must be the current one.
    pub(crate) if_match: Option<u64>,
    pub(crate) body: Option<&'a serde_json::Value>,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            if_match: None,
            body: None,
        }
    }
}

/// Which node to talk to.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The node's control API, such as http://127.0.0.1:7070 [default: found in the data folder]
    #[arg(long, env = "SINEW_URL", value_name = "URL")]
    url: Option<String>,
    /// A file with the token to use [default: $SINEW_TOKEN, then admin-token in the data folder]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The data folder of the node [default: as configured here, otherwise ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Target {
    /// Asks the node for `path` and reads the answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(&Ask::get(path))
    }

    /// Sends a request and reads the answer.
    pub(crate) fn ask<T: DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => Endpoints::read(&self.data()?)?.control,
        };
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, read(&url, ask, &token))
                .await
                .map_err(|_| unreachable(&url, "it did not answer in time"))?
        })
    }

    /// Sends a request whose answer says nothing.
    pub(crate) fn tell(&self, ask: &Ask<'_>) -> Result<()> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => Endpoints::read(&self.data()?)?.control,
        };
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, send(&url, ask, &token))
                .await
                .map_err(|_| unreachable(&url, "it did not answer in time"))??;
            Ok(())
        })
    }

    /// Asks the node for `path` and hands the chunks of the answer on as they come. Each has to come in time.
    pub(crate) fn download(
        &self,
        path: &str,
        mut chunk: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => Endpoints::read(&self.data()?)?.control,
        };
        let token = self.token()?;
        let ask = Ask::get(path);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let late = || unreachable(&url, "it did not answer in time");
            let response = tokio::time::timeout(DOWNLOAD, send(&url, &ask, &token));
            let mut body = response.await.map_err(|_| late())??.into_body();
            loop {
                let frame = tokio::time::timeout(DOWNLOAD, body.frame());
                let Some(frame) = frame.await.map_err(|_| late())? else {
                    return Ok(());
                };
                let frame = frame
                    .map_err(|error| anyhow::anyhow!("the answer of {url} broke off: {error}"))?;
                if let Some(data) = frame.data_ref() {
                    chunk(data)?;
                }
            }
        })
    }

    fn data(&self) -> Result<PathBuf> {
        match &self.data {
            Some(data) => Ok(data.clone()),
            None => Ok(Config::load(Sources::from_environment())?.data),
        }
    }

    fn token(&self) -> Result<String> {
        if self.token_file.is_none()
            && let Ok(token) = std::env::var("SINEW_TOKEN")
        {
            return Ok(token);
        }
        let path = match &self.token_file {
            Some(path) => path.clone(),
            None => self.data()?.join(DataFolder::ADMIN_TOKEN),
        };
        let token = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read the token file {}; name it with --token-file, or set SINEW_TOKEN",
                path.display()
            )
        })?;
        Ok(token.trim().to_owned())
    }
}

async fn read<T: DeserializeOwned>(url: &str, ask: &Ask<'_>, token: &str) -> Result<T> {
    let body = whole(url, send(url, ask, token).await?).await?;
    let path = ask.path;
    serde_json::from_slice(&body)
        .with_context(|| format!("{url}{path} did not answer as a Sinew node does"))
}

async fn whole(url: &str, response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), LONGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer of {url} broke off: {error}"))?;
    Ok(body.to_bytes())
}

/// Sends a request and answers the response when it is a success.
async fn send(url: &str, ask: &Ask<'_>, token: &str) -> Result<Response<Incoming>> {
    let base: Uri = url.parse().map_err(|_| bad_url(url))?;
    if base.scheme_str() != Some("http") {
        return Err(bad_url(url).into());
    }
    let authority = base.authority().ok_or_else(|| bad_url(url))?;
    let port = authority.port_u16().unwrap_or(80);
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| unreachable(url, error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(url, error))?;
    tokio::spawn(connection);
    let path = ask.path;
    let mut request = Request::builder()
        .method(ask.method)
        .uri(path)
        .header(header::HOST, authority.as_str())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::ACCEPT, "application/json, */*");
    if let Some(version) = ask.if_match {
        request = request.header(header::IF_MATCH, format!("\"{version}\""));
    }
    let body: Full<Bytes> = match ask.body {
        Some(json) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Full::from(serde_json::to_vec(json)?)
        }
        None => Full::default(),
    };
    let request = request
        .body(body)
        .context("the token holds characters that cannot be sent")?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(url, error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    match serde_json::from_slice::<Problem>(&whole(url, response).await?) {
        Ok(problem) => Err(Error::from(problem).into()),
        Err(_) => anyhow::bail!("{url}{path} answered {status}"),
    }
}

fn unreachable(url: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Unavailable,
        "node.unreachable",
        format!("no node answers at {url}: {why}; is `sinew serve` running there?"),
    )
}

fn bad_url(url: &str) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "config.url",
        format!("{url:?} is not the URL of a control API; it looks like http://127.0.0.1:7070"),
    )
}
