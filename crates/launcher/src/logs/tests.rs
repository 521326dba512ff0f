use std::fs;

use super::*;

#[tokio::test]
async fn lines_are_split_cut_and_never_lost_at_the_end() {
    let long = "x".repeat(MAX_LINE + 10);
    let text = format!("one\r\n\n{long}\nlast");
    let mut lines = Lines {
        stream: BufReader::new(text.as_bytes()),
    };
    let mut got = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        got.push(String::from_utf8(line).unwrap());
    }
    let cut = format!("{} [cut]", "x".repeat(MAX_LINE));
    assert_eq!(got, ["one", "", cut.as_str(), "last"]);
}

#[test]
fn a_full_file_is_put_aside_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders-1.log");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let mut file = RotatingFile::open(path.clone(), 10, 2).unwrap();
    for line in ["aaaa", "bbbb", "cccc", "dddd"] {
        file.write_line(line.as_bytes()).unwrap();
    }
    drop(file);
    // Opened again, it goes on where it was.
    let mut file = RotatingFile::open(path, 10, 2).unwrap();
    for line in ["eeee", "ffff", "gggg"] {
        file.write_line(line.as_bytes()).unwrap();
    }
    assert_eq!(read("orders-1.log"), "gggg\n");
    assert_eq!(read("orders-1.log.1"), "eeee\nffff\n");
    assert_eq!(read("orders-1.log.2"), "cccc\ndddd\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn each_instance_has_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (sink, written) = start(Logs::files(folder.path().join("logs"))).unwrap();
    for name in ["orders-1", "orders-2"] {
        let id = InstanceId::new(name).unwrap();
        sink.capture(
            &id,
            Some(std::io::Cursor::new(format!("hello from {name}\n"))),
        );
    }
    drop(sink);
    written.wait(Duration::from_secs(30)).await;
    for name in ["orders-1", "orders-2"] {
        let text = fs::read_to_string(folder.path().join(format!("logs/{name}.log"))).unwrap();
        assert_eq!(text, format!("hello from {name}\n"));
    }
}
