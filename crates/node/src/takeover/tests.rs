use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::*;

fn config(folder: &Path, control: &str, gateway: &str) -> Config {
    let mut config = Config {
        data: folder.to_owned(),
        control: control.parse().unwrap(),
        ..Config::default()
    };
    config.gateway.address = gateway.parse().unwrap();
    config
}

fn sockets(count: usize) -> Sockets {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let first = bind();
    let plain = (0..count).map(|_| first.try_clone().unwrap()).collect();
    Sockets {
        gateway: Listeners {
            plain,
            tls: Vec::new(),
        },
        control: Some(bind()),
    }
}

#[tokio::test]
async fn sockets_go_over_with_the_connections_that_wait_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "127.0.0.1:0", "127.0.0.1:0");
    assert!(Predecessor::meet(&config).await.unwrap().is_none());

    let door = Door::open(folder.path()).unwrap();
    // More than fit into one message.
    let offered = sockets(150);
    let address = offered.gateway.plain[0].local_addr().unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    let old = async {
        let mut successor = door.knock().await;
        successor.offer(offered).await.unwrap();
        successor.release().await.unwrap();
    };
    let new = async {
        let (mut predecessor, got) = Predecessor::meet(&config).await.unwrap().unwrap();
        predecessor.take().await.unwrap();
        predecessor.relieve().await;
        got
    };
    let ((), got) = tokio::join!(old, new);
    assert_eq!((got.gateway.plain.len(), got.gateway.tls.len()), (150, 0));
    assert!(got.control.is_some());
    // Ours are closed by now; the connection is not.
    let (mut accepted, _) = got.gateway.plain[149].accept().unwrap();
    accepted.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    (&waiting).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    // What is left of one that is gone says nothing.
    drop(door);
    assert!(Predecessor::meet(&config).await.unwrap().is_none());
}

#[tokio::test]
async fn a_successor_that_listens_elsewhere_goes_before_anything_happened() {
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(folder.path()).unwrap();
    for (control, gateway) in [
        ("127.0.0.1:0", "127.0.0.1:1"),
        ("127.0.0.1:0", "127.0.0.2:0"),
        ("127.0.0.1:1", "127.0.0.1:0"),
    ] {
        let config = config(folder.path(), control, gateway);
        let old = async {
            let mut successor = door.knock().await;
            successor.offer(sockets(2)).await.unwrap_err().to_string()
        };
        let (said, met) = tokio::join!(old, async { Predecessor::meet(&config).await.map(drop) });
        assert_eq!(said, "it hung up");
        assert_eq!(met.unwrap_err().code(), "gateway.listeners_differ");
    }
}

#[tokio::test]
async fn one_that_speaks_otherwise_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(door(folder.path())).unwrap();
    let config = config(folder.path(), "127.0.0.1:0", "127.0.0.1:0");
    let old = async {
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream
            .try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Until the other one has read it.
        let _ = stream.readable().await;
    };
    let ((), met) = tokio::join!(old, async { Predecessor::meet(&config).await.map(drop) });
    assert_eq!(met.unwrap_err().code(), "node.take_over");
}
