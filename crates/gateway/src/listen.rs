//! The sockets that a gateway listens on.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use sinew_core::{Error, Kind, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::GatewayConfig;

/// The sockets that a gateway listens on, for another one to go on with, in this process or the next. Connections that
/// the system has completed and nobody has accepted belong to the socket, so that none is lost on the way.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Without TLS, one per thread.
    pub plain: Vec<TcpListener>,
    /// With TLS, one per thread; none where TLS is not spoken.
    pub tls: Vec<TcpListener>,
}

impl Listeners {
    /// Other handles of the same sockets.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |sockets: &[TcpListener]| -> io::Result<Vec<_>> {
            sockets.iter().map(TcpListener::try_clone).collect()
        };
        Ok(Self {
            plain: clone(&self.plain)?,
            tls: clone(&self.tls)?,
        })
    }

    /// Whether a gateway with this configuration can go on with them.
    ///
    /// `gateway.listeners_differ` (FailedPrecondition) when they listen elsewhere than it would.
    pub fn check(&self, config: &GatewayConfig) -> Result<()> {
        let tls = config.tls.as_ref().map(|tls| tls.address);
        for (what, sockets, wanted) in [
            ("[gateway] address", &self.plain, Some(config.address)),
            ("[gateway.tls] address", &self.tls, tls),
        ] {
            for socket in sockets {
                let found = socket.local_addr().ok();
                let fits = wanted.zip(found).is_some_and(|(wanted, found)| {
                    wanted.ip() == found.ip() && [0, found.port()].contains(&wanted.port())
                });
                if !fits {
                    return Err(differs(what, found, wanted));
                }
            }
        }
        Ok(())
    }
}

fn differs(what: &str, found: Option<SocketAddr>, wanted: Option<SocketAddr>) -> Error {
    let found = found.map_or("nowhere".to_owned(), |address| address.to_string());
    let wanted = wanted.map_or("nothing".to_owned(), |address| address.to_string());
    Error::new(
        Kind::FailedPrecondition,
        "gateway.listeners_differ",
        format!(
            "the sockets to go on with listen on {found}, and {what} says {wanted}: configure the same, or stop \
             the gateway that runs and start this one"
        ),
    )
}

/// One listener per thread on one port; the kernel spreads connections over them (SO_REUSEPORT). Those that
/// there are already come first.
pub(crate) fn listen(
    address: SocketAddr,
    threads: usize,
    there: Vec<TcpListener>,
) -> Result<(SocketAddr, Vec<TcpListener>)> {
    let failed = |error| listen_failed(address, error);
    if address.port() != 0 && there.is_empty() {
        // SO_REUSEPORT would share the port with another gateway of the same user without a word;
        // a socket without it finds out.
        drop(bind(address, false).map_err(failed)?);
    }
    let mut listeners = there;
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(failed)?;
    }
    if listeners.is_empty() {
        listeners.push(bind(address, true).map_err(failed)?);
    }
    let address = listeners[0].local_addr().map_err(failed)?;
    while listeners.len() < threads {
        listeners.push(bind(address, true).map_err(failed)?);
    }
    Ok((address, listeners))
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier process that are still closing do not hold the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(4_096)?;
    }
    Ok(socket.into())
}

pub(crate) fn listen_failed(address: SocketAddr, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        let message = format!("{address} is in use by another process");
        Error::new(Kind::AlreadyExists, "gateway.address_in_use", message)
    } else {
        let message = format!("the gateway cannot listen on {address}");
        Error::new(Kind::Unavailable, "gateway.listen", message).with_source(error)
    }
}
