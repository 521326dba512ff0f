//! A real server in the testbed's hands.

use std::net::TcpStream;

use sinew_testbed::{Postgres, Server};

#[test]
fn a_postgres_is_stopped_killed_and_started_again() {
    let mut server = Server::start(Postgres::default()).expect("a server");
    server.stop();
    assert!(TcpStream::connect(server.address()).is_err());
    server.start_again().expect("it starts after a stop");
    server.kill();
    assert!(TcpStream::connect(server.address()).is_err());
    server.start_again().expect("it starts after a kill");
    assert!(TcpStream::connect(server.address()).is_ok());
}
