//! One look at one instance.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Empty;
use hyper::{Request, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use sinew_coordination::registry::{Due, Health, Probe};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// The longest answer of a gRPC health service that is read: two bytes are meant.
const LONGEST_ANSWER: usize = 1024;
const SERVING: u64 = 1;

/// What is seen, or why the check fails. Bounded in time by the caller.
pub(super) async fn run(due: &Due, elsewhere: bool) -> Result<Health, String> {
    let own = || (due.address.to_string(), due.port);
    match &due.probe {
        Probe::Reported => Ok(Health::Unknown),
        Probe::Tcp { target } => {
            let place = place(due, target, elsewhere)?;
            connect(&place).await?;
            Ok(Health::Passing)
        }
        Probe::Http {
            target,
            method,
            from,
            to,
        } => {
            let (place, path) = match target.starts_with('/') {
                true => (own(), target.to_string()),
                false => {
                    let uri: Uri = target.parse().map_err(|_| "its target is no URL")?;
                    let host = uri.host().unwrap_or_default();
                    let host = host.trim_start_matches('[').trim_end_matches(']');
                    let place = (host.to_owned(), uri.port_u16().unwrap_or(80));
                    let path = uri.path_and_query().map_or("/", |path| path.as_str());
                    (place, path.to_owned())
                }
            };
            allowed(due, &place.0, elsewhere)?;
            let status = http(&place, method, &path).await?;
            match status {
                429 => Ok(Health::Warning),
                status if (*from..=*to).contains(&status) => Ok(Health::Passing),
                status => Err(format!("it answered {status}")),
            }
        }
        Probe::Grpc { target, service } => {
            let place = place(due, target, elsewhere)?;
            match grpc(&place, service).await? {
                SERVING => Ok(Health::Passing),
                status => Err(format!("it is not serving: its health is {status}")),
            }
        }
    }
}

type Place = (String, u16);

fn place(due: &Due, target: &str, elsewhere: bool) -> Result<Place, String> {
    if target.is_empty() {
        return Ok((due.address.to_string(), due.port));
    }
    let (host, port) = target
        .rsplit_once(':')
        .ok_or("its target is not host:port")?;
    let port = port.parse().map_err(|_| "its target is not host:port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    allowed(due, host, elsewhere)?;
    Ok((host.to_owned(), port))
}

/// Whoever may register shall not make the node look around in its network.
fn allowed(due: &Due, host: &str, elsewhere: bool) -> Result<(), String> {
    if elsewhere || host == &*due.address {
        return Ok(());
    }
    Err(format!(
        "{host} is not the instance's address {}; set check_other_hosts in [registry] to allow that",
        due.address
    ))
}

async fn connect((host, port): &Place) -> Result<TcpStream, String> {
    TcpStream::connect((host.as_str(), *port))
        .await
        .map_err(|error| format!("cannot connect: {error}"))
}

fn authority((host, port): &Place) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

async fn http(place: &Place, method: &str, path: &str) -> Result<u16, String> {
    let broken = |error: hyper::Error| format!("no HTTP answer: {error}");
    let stream = TokioIo::new(connect(place).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority(place))
        .header(header::USER_AGENT, "sinew-check")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("its request cannot be sent: {error}"))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(response.status().as_u16())
}

/// `grpc.health.v1.Health/Check`: the status that it answers.
async fn grpc(place: &Place, service: &str) -> Result<u64, String> {
    let broken = |error: h2::Error| format!("no gRPC answer: {error}");
    let stream = connect(place).await?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(format!(
        "http://{}/grpc.health.v1.Health/Check",
        authority(place)
    ))
    .header(header::CONTENT_TYPE, "application/grpc")
    .header(header::TE, "trailers")
    .body(())
    .map_err(|error| format!("its request cannot be sent: {error}"))?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(question(service), true).map_err(broken)?;
    let mut response = response.await.map_err(broken)?;
    let status = response.status();
    if status != 200 {
        return Err(format!("it answered {status}"));
    }
    let refused = |headers: &hyper::HeaderMap| {
        let status = headers.get("grpc-status")?.to_str().ok()?;
        (status != "0").then(|| format!("it refused: gRPC status {status}"))
    };
    if let Some(refused) = refused(response.headers()) {
        return Err(refused);
    }
    let mut answer = BytesMut::new();
    while let Some(data) = response.body_mut().data().await {
        let data = data.map_err(broken)?;
        let _ = response
            .body_mut()
            .flow_control()
            .release_capacity(data.len());
        answer.extend_from_slice(&data);
        if answer.len() > LONGEST_ANSWER {
            return Err("its answer is too long".to_owned());
        }
    }
    let trailers = response.body_mut().trailers().await.map_err(broken)?;
    if let Some(refused) = trailers.as_ref().and_then(refused) {
        return Err(refused);
    }
    health(&answer).ok_or_else(|| "its answer is not one of a health service".to_owned())
}

/// A message of gRPC with a `HealthCheckRequest`, whose first field is the service.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// The first field of a `HealthCheckResponse`; 0 when it is left out, as protobuf has it.
fn health(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    if head[0] != 0 || u32::from_be_bytes(head[1..].try_into().ok()?) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f, ..] => Some(u64::from(*status)),
        _ => None,
    }
}
