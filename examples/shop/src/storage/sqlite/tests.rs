use std::sync::{Arc, Barrier};

use super::*;

const SCHEMA: &[Migration] = &[Migration::Sql(
    "CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT",
)];

fn insert(n: i64) -> impl FnOnce(&Connection) -> Result<()> {
    move |db| {
        db.execute("INSERT INTO t VALUES (?1)", [n])?;
        Ok(())
    }
}

async fn count(store: &Store) -> i64 {
    store
        .read(|db| Ok(db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_answered_is_there_for_every_handle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let (one, two) = (
        Store::open(&path, SCHEMA).unwrap(),
        Store::open(&path, SCHEMA).unwrap(),
    );
    let many = (0..200).map(|n| {
        let store = if n % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { store.write(insert(n)).await })
    });
    for task in many.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    assert_eq!((count(&one).await, count(&two).await), (200, 200));
}

#[tokio::test]
async fn a_failing_or_panicking_job_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("t.db"), SCHEMA).unwrap();
    // Holds the writer, so that the others are taken as one group.
    let gate = Arc::new(Barrier::new(2));
    let held = tokio::spawn({
        let (store, gate) = (store.clone(), gate.clone());
        async move {
            let held = store.write(move |_| {
                gate.wait();
                Ok(())
            });
            held.await
        }
    });
    tokio::task::yield_now().await;
    let fine = store.write(insert(1));
    let fails = store.write(|db| {
        insert(2)(db)?;
        Err::<(), _>(Fault::new(Kind::NotFound, "test.no", "no"))
    });
    let panics = store.write(|db| -> Result<()> {
        insert(3)(db)?;
        panic!("as this test wants")
    });
    let also_fine = store.write(insert(4));
    let open = async {
        tokio::task::spawn_blocking(move || gate.wait())
            .await
            .unwrap();
    };
    let (fine, fails, panics, also_fine, ()) = tokio::join!(fine, fails, panics, also_fine, open);
    held.await.unwrap().unwrap();
    assert_eq!(fails.unwrap_err().code(), "test.no");
    assert_eq!(panics.unwrap_err().code(), "shop.store_failed");
    assert!(fine.is_ok() && also_fine.is_ok());
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("t.db"), SCHEMA).unwrap();
    let (taken, running) = oneshot::channel();
    let (open, gate) = bounded::<()>(0);
    let held = tokio::spawn({
        let store = store.clone();
        async move {
            let held = store.write(move |_| {
                let _ = taken.send(());
                let _ = gate.recv();
                Ok(())
            });
            held.await
        }
    });
    // From here on the writer takes nothing more out of its queue.
    running.await.unwrap();
    let (refused, mut count_refused) = tokio::sync::mpsc::channel(20);
    let waiting: Vec<_> = (0..QUEUE as i64 + 10)
        .map(|n| {
            let (store, refused) = (store.clone(), refused.clone());
            tokio::spawn(async move {
                if let Err(fault) = store.write(insert(n)).await {
                    refused.send(fault.code().to_owned()).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(count_refused.recv().await.unwrap(), "shop.store_busy");
    }
    drop(open);
    held.await.unwrap().unwrap();
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(count(&store).await, QUEUE as i64);
}

#[tokio::test]
async fn readers_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("t.db"), SCHEMA).unwrap();
    assert!(store.read(insert(1)).await.is_err());
    assert_eq!(count(&store).await, 0);
}

#[test]
fn migrations_run_once_and_newer_files_are_refused() {
    const MORE: &[Migration] = &[
        Migration::Sql("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"),
        Migration::Code(|db| insert(7)(db)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Store::open(&path, MORE).unwrap());
        }
    });
    let db = connection::open(&path, true).unwrap();
    let rows: i64 = db
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
    assert_eq!(
        Store::open(&path, SCHEMA).unwrap_err().code(),
        "shop.store_version"
    );
}
