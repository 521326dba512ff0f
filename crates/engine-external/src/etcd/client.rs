//! etcd's calls over one connection, without anything of ours on top.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use prost::Message;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::wire::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, CompactionResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::{Address, Host};

/// The largest answer that is taken. One page of a range is made smaller when it does not fit.
const ANSWER_BYTES: usize = 32 << 20;
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// etcd ends connections that ask "are you there" more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to one member of a cluster. Clones share it. For comparisons with [`super::EtcdKv`], which stands
/// on it, and for what needs etcd itself.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

impl Client {
    /// Connects to `host` with the TLS, user and password of `address`.
    pub async fn connect(address: &Address, host: &Host) -> Result<Self, Status> {
        let scheme = if address.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let bad = |why: tonic::transport::Error| Status::unavailable(chain(&why));
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
            .map_err(bad)?
            .connect_timeout(address.timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        if let Some(tls) = &address.tls {
            let mut config = ClientTlsConfig::new().domain_name(host.name.clone());
            config = match &tls.ca {
                Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
                None => config.with_webpki_roots(),
            };
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(config).map_err(bad)?;
        }
        let connecting = tokio::time::timeout(address.timeout, endpoint.connect());
        let channel = match connecting.await {
            Ok(connected) => connected.map_err(bad)?,
            Err(_) => return Err(Status::unavailable("no connection in time")),
        };
        let mut client = Self {
            channel,
            token: None,
            timeout: address.timeout,
        };
        if let (Some(name), Some(password)) = (&address.user, address.password()) {
            let asked = AuthenticateRequest {
                name: name.clone(),
                password: password.to_owned(),
            };
            let answer: AuthenticateResponse = client
                .call("/etcdserverpb.Auth/Authenticate", asked)
                .await?;
            let mut token = MetadataValue::try_from(answer.token)
                .map_err(|_| Status::unknown("the token is no header"))?;
            token.set_sensitive(true);
            client.token = Some(token);
        }
        Ok(client)
    }

    /// A transaction.
    pub async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        self.call("/etcdserverpb.KV/Txn", txn).await
    }

    /// Reads keys.
    pub async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", range).await
    }

    /// Forgets the history of the whole cluster before `revision`.
    pub async fn compact(&self, revision: i64) -> Result<CompactionResponse, Status> {
        self.call("/etcdserverpb.KV/Compact", CompactionRequest { revision })
            .await
    }

    /// Makes a lease of `ttl` seconds.
    pub async fn lease_grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        self.call(
            "/etcdserverpb.Lease/LeaseGrant",
            LeaseGrantRequest { ttl, id },
        )
        .await
    }

    /// Ends a lease.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        self.call("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id })
            .await
    }

    /// Gives a lease its time again; answers the seconds, 0 when there is no such lease.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, Status> {
        let one = stream::once(std::future::ready(LeaseKeepAliveRequest { id }));
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let answering = async {
            let mut answers: Streaming<LeaseKeepAliveResponse> = self.stream(path, one).await?;
            answers.message().await
        };
        match tokio::time::timeout(self.timeout, answering).await {
            Ok(answer) => answer?
                .map(|answer| answer.ttl)
                .ok_or_else(|| Status::unavailable("the stream ended without an answer")),
            Err(_) => Err(late()),
        }
    }

    /// A watch. The stream has answered once when this returns.
    pub async fn watch(
        &self,
        create: WatchCreateRequest,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let request = WatchRequest {
            create_request: Some(create),
        };
        // etcd ends the watch when we end our side.
        let requests = stream::once(std::future::ready(request)).chain(stream::pending());
        let opening = self.stream("/etcdserverpb.Watch/Watch", requests);
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(late()),
        }
    }

    /// The release of the member: `3.4.23`.
    pub async fn version(&self) -> Result<String, Status> {
        let status: StatusResponse = self
            .call("/etcdserverpb.Maintenance/Status", StatusRequest {})
            .await?;
        Ok(status.version)
    }

    /// The same connection, with less patience.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let calling = async {
            let mut grpc = self.grpc().await?;
            let path = PathAndQuery::from_static(path);
            grpc.unary(self.request(message), path, ProstCodec::default())
                .await
        };
        match tokio::time::timeout(self.timeout, calling).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(late()),
        }
    }

    async fn stream<S, Q, A>(&self, path: &'static str, messages: S) -> Result<Streaming<A>, Status>
    where
        S: stream::Stream<Item = Q> + Send + 'static,
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        grpc.streaming(self.request(messages), path, ProstCodec::default())
            .await
            .map(tonic::Response::into_inner)
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let ready = grpc.ready().await;
        ready.map_err(|why| Status::unavailable(chain(&why)))?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

fn late() -> Status {
    Status::new(Code::DeadlineExceeded, "no answer in time")
}

/// An error with its causes, which transport errors keep to themselves.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
