//! Rows as they are asked for. A task of its own holds the connection and fetches a bounded number ahead.

use async_trait::async_trait;
use futures_util::StreamExt;
use sinew_core::Result;
use sinew_engine::sql::{Row, Rows};
use sqlx::Either;
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};

use super::{
    dialect::Dialect,
    pool::{Lent, Ready, Stakes, command, meaning},
};
use crate::fault;

/// Rows that are fetched ahead.
const AHEAD: usize = 64;

struct Fetched {
    rows: mpsc::Receiver<Result<Row>>,
    ended: bool,
}

#[async_trait]
impl Rows for Fetched {
    async fn next(&mut self) -> Result<Option<Row>> {
        if self.ended {
            return Ok(None);
        }
        let next = self.rows.recv().await.transpose();
        self.ended = !matches!(next, Ok(Some(_)));
        next
    }
}

pub(super) fn rows<D: Dialect>(mut lent: Lent<D>, ready: Ready<D>) -> Box<dyn Rows> {
    let (send, rows) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let limit = ready.limit;
        lent.begin();
        let fetched = fetch(&mut lent, ready, &send).await;
        match fetched {
            Ok(true) => {
                // Only after the database said that this was all, the connection may be used again.
                let restored = match D::unlimited() {
                    Some((_, restore)) => command(&mut lent, restore.into(), limit).await.is_ok(),
                    None => true,
                };
                if restored {
                    lent.done();
                }
            }
            // Nobody wants more.
            Ok(false) => {}
            Err(error) => {
                let _ = send.send(Err(error)).await;
            }
        }
    });
    Box::new(Fetched { rows, ended: false })
}

/// Whether the rows were fetched to their end.
async fn fetch<D: Dialect>(
    lent: &mut Lent<D>,
    ready: Ready<D>,
    send: &mpsc::Sender<Result<Row>>,
) -> Result<bool> {
    let limit: Duration = ready.limit;
    let fail = |error: &sqlx::Error| meaning::<D>(error, limit, Stakes::Undone).0;
    if let Some((lift, _)) = D::unlimited() {
        let lifted = command(lent, lift.into(), limit).await;
        lifted.map_err(|error| fail(&error))?;
    }
    let mut columns = None;
    let (text, arguments) = ready.into_parts();
    let mut answers = D::run(lent, text, arguments);
    loop {
        let next = timeout(limit, answers.next()).await;
        let Some(answer) = next.map_err(|_| fault::timeout(D::NAME, limit))? else {
            return Ok(true);
        };
        if let Either::Right(row) = answer.map_err(|error| fail(&error))? {
            let row = D::row(&row, &mut columns)?;
            if send.send(Ok(row)).await.is_err() {
                return Ok(false);
            }
        }
    }
}
