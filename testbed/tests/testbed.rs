//! The testbed itself, with a server that every machine has: a small one made of this test's own threads.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use sinew_testbed::{Proxy, free_port};

/// Answers every byte with itself.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while matches!(connection.read(&mut byte), Ok(1)) {
                    let _ = connection.write_all(&byte);
                }
            });
        }
    });
    address
}

fn ask(connection: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    connection.write_all(&[byte])?;
    let mut answer = [0];
    connection.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn a_cut_proxy_lets_nothing_pass_and_loses_nothing() {
    let proxy = Proxy::to(echo()).expect("a proxy");
    let mut connection = TcpStream::connect(proxy.address()).expect("a connection");
    assert_eq!(ask(&mut connection, 1).expect("an answer"), 1);

    proxy.cut();
    connection
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    assert!(ask(&mut connection, 2).is_err());

    proxy.mend();
    connection
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let mut answer = [0];
    connection.read_exact(&mut answer).expect("the late answer");
    assert_eq!(answer[0], 2);

    proxy.reset();
    assert!(ask(&mut connection, 3).is_err());
    let mut connection = TcpStream::connect(proxy.address()).expect("a new connection");
    assert_eq!(ask(&mut connection, 4).expect("an answer"), 4);
}

#[test]
fn ports_are_not_given_away_twice() {
    let first = free_port().expect("a port");
    assert_ne!(first, free_port().expect("a port"));
}
