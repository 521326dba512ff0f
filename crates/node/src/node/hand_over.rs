//! How a running node makes way for another process, and how it goes on when that fails.

use std::time::Duration;

use sinew_core::{Backoff, Result};

use super::{Node, Parts, defect};
use crate::{
    Config,
    takeover::{Sockets, Successor},
};

/// How long the data folder is waited for after a successor that failed.
const FOLDER_WITHIN: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub enum HandOver {
    /// Another process serves. So many requests took too long here and were cut off.
    Done(u64),
    /// The other process did not get that far: this node goes on.
    Back(Box<Node>),
}

enum Handed {
    Over(u64),
    Back(Box<Parts>),
}

impl Node {
    /// Waits for a process that asks to take over. Cancel safe.
    pub async fn successor(&self) -> Successor {
        match &self.parts().door {
            Some(door) => door.knock().await,
            None => std::future::pending().await,
        }
    }

    /// Makes way for another process. What is in flight finishes here, at most `limit` after the other one serves.
    ///
    /// An error says that neither of them does: the other one failed, and this one cannot open its store again.
    pub async fn hand_over(mut self, successor: Successor, limit: Duration) -> Result<HandOver> {
        let (Some(parts), Some(runtime)) = (self.parts.take(), &self.runtime) else {
            return Ok(HandOver::Done(0));
        };
        // Boxed: the whole of a start is in it.
        let handed = runtime.spawn(Box::pin(parts.hand_over(successor, limit)));
        match handed
            .await
            .map_err(|error| defect("the node").with_source(error))??
        {
            Handed::Over(cut_off) => Ok(HandOver::Done(cut_off)),
            Handed::Back(parts) => {
                self.parts = Some(*parts);
                Ok(HandOver::Back(Box::new(self)))
            }
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

impl Parts {
    async fn hand_over(self, mut successor: Successor, limit: Duration) -> Result<Handed> {
        let offered = match self.sockets() {
            Ok(sockets) => successor
                .offer(sockets)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.detail()),
        };
        if let Err(error) = offered {
            tracing::warn!(error, "another process asked to take over, and did not");
            return Ok(Handed::Back(Box::new(self)));
        }
        tracing::info!("another process takes over; the gateway serves what it knows meanwhile");
        let kept = self.sockets()?;
        let config = Config {
            gateway: sinew_gateway::GatewayConfig {
                routing: self.routes.file_routes(),
                ..self.config.gateway.clone()
            },
            ..self.config.clone()
        };
        let gateway = self.gateway.clone();
        if let Err(error) = self.close().await {
            // Everything acknowledged is on disk already.
            let error = error.detail();
            tracing::error!(error, "the store did not close as it should");
        }
        if let Err(error) = successor.release().await {
            tracing::error!(
                %error,
                "the process that took over does not serve; this one goes on"
            );
            drop(successor);
            let parts = start_again(&config, kept).await?;
            tokio::spawn(async move { gateway.leave(limit).await });
            return Ok(Handed::Back(Box::new(parts)));
        }
        drop(kept);
        tracing::info!("the other process serves; finishing what is in flight");
        Ok(Handed::Over(gateway.leave(limit).await))
    }

    fn sockets(&self) -> Result<Sockets> {
        Ok(Sockets {
            gateway: self.gateway.listeners()?.unwrap_or_default(),
            control: self
                .control_socket
                .as_ref()
                .and_then(|socket| socket.try_clone().ok()),
        })
    }
}

/// Starts once more what was ended. A process that dies lets go of the folder, but not at once.
async fn start_again(config: &Config, kept: Sockets) -> Result<Parts> {
    let until = tokio::time::Instant::now() + FOLDER_WITHIN;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        let started = Box::pin(Parts::start(config.clone(), None, kept.try_clone()?)).await;
        match started {
            Err(error)
                if error.code().ends_with("locked") && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            outcome => return outcome,
        }
    }
}
