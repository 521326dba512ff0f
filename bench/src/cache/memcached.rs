//! A plain client of Memcached: a connection for each task, one question after the other, the meta protocol.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use sinew_testbed::Server;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

use super::{
    LIFETIME,
    sides::{Held, User},
};

pub(crate) struct Plain(Arc<Server>);

impl Plain {
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self(Arc::clone(server))
    }
}

#[async_trait]
impl Held for Plain {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn server(&self) -> Option<u32> {
        self.0.pid()
    }

    async fn user(&self) -> Result<Box<dyn User>> {
        let stream = TcpStream::connect(self.0.address()).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(Connection {
            stream: BufStream::new(stream),
            line: String::new(),
        }))
    }
}

struct Connection {
    stream: BufStream<TcpStream>,
    line: String,
}

impl Connection {
    async fn answer(&mut self) -> Result<()> {
        self.stream.flush().await?;
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        Ok(())
    }
}

#[async_trait]
impl User for Connection {
    async fn get(&mut self, key: Bytes) -> Result<usize> {
        for piece in [b"mg plain:", &key[..], b" v\r\n"] {
            self.stream.write_all(piece).await?;
        }
        self.answer().await?;
        let length = self.line.strip_prefix("VA ").context("a miss")?;
        let length: usize = length.trim_end().parse()?;
        let mut value = vec![0; length + 2];
        self.stream.read_exact(&mut value).await?;
        Ok(length)
    }

    async fn set(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let head = format!(" {} T{}\r\n", value.len(), LIFETIME.as_secs());
        for piece in [b"ms plain:", &key[..], head.as_bytes(), &value, b"\r\n"] {
            self.stream.write_all(piece).await?;
        }
        self.answer().await?;
        ensure!(self.line == "HD\r\n", "not set: {}", self.line);
        Ok(())
    }
}
