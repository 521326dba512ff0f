//! The embedded blob store beside plain files, and Sinew's over S3 beside a plain client of it.
//!
//! A plain file is written beside its place, synced, renamed, and its folder synced: what is answered is on the disk, as with the
//! embedded store, which syncs its index too and keeps a checksum. The plain client of S3 signs and sends the same requests with a checksum over kept
//! connections, and reads the body without checking it.

mod files;
mod s3;
mod sides;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use self::sides::Kept;
use crate::{
    Options,
    measure::{Plan, Random, Side, Work, alternate},
    report,
};

/// Name, bytes, objects, tasks.
const SIZES: [(&str, usize, u64, &[usize]); 3] = [
    ("4 KB", 4 << 10, 500, &[1, 16]),
    ("1 MB", 1 << 20, 50, &[1, 16]),
    ("64 MB", 64 << 20, 4, &[1]),
];
/// What a ranged get asks for.
const RANGE: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
    Range,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    report::wants_a_disk()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(compare(options))
}

async fn compare(options: &Options) -> Result<()> {
    let plan = Plan::of(options);
    let folder = tempfile::tempdir()?;
    let mut sets: Vec<Vec<Arc<dyn Kept>>> = Vec::new();
    if options.wants("embedded") {
        sets.push(vec![
            Arc::new(sides::embedded(&folder.path().join("sinew"))?),
            Arc::new(files::Files::new(&folder.path().join("files"))?),
        ]);
    }
    if options.wants("s3") {
        let server = sides::start_s3().await?;
        sets.push(vec![
            Arc::new(sides::over_s3(&server).await?),
            Arc::new(s3::Plain::new(&server)),
        ]);
    }
    let operations = [
        ("put", Operation::Put),
        ("get", Operation::Get),
        ("get of 1 KB", Operation::Range),
    ];
    let mut figures = Vec::new();
    for stores in &sets {
        for (size, bytes, objects, tasks) in SIZES {
            let content = Bytes::from(vec![7; bytes]);
            for store in stores {
                for number in 0..objects {
                    let put = store.put(name(size, number), content.clone()).await;
                    put.with_context(|| store.name())?;
                }
            }
            for tasks in tasks {
                for (operation, what) in operations {
                    let side = |store| side(store, what, size, objects, &content);
                    let sides: Vec<Side> = stores.iter().map(side).collect();
                    let load = format!("{operation} {size} x{tasks}");
                    alternate(&plan, &load, *tasks, &sides, &[(0, 1)], &mut figures).await?;
                }
            }
        }
    }
    let conditions = format!(
        "operation, size of objects x tasks; what is read is in the page cache; {}; S3 is versitygw on the loopback",
        plan.text(),
    );
    report::print("blob", &conditions, &figures, options)
}

fn name(size: &str, number: u64) -> String {
    format!("{}/{number}", size.replace(' ', "-"))
}

fn side(
    store: &Arc<dyn Kept>,
    operation: Operation,
    size: &'static str,
    objects: u64,
    content: &Bytes,
) -> Side {
    let (of, content) = (Arc::clone(store), content.clone());
    let work = move |seed| -> Work {
        let (store, content, mut random) = (Arc::clone(&of), content.clone(), Random(seed));
        Box::new(move || {
            let (store, content) = (Arc::clone(&store), content.clone());
            let name = name(size, random.below(objects));
            let from = random.below(content.len() as u64 - RANGE + 1);
            Box::pin(async move {
                let (read, expected) = match operation {
                    Operation::Put => return store.put(name, content).await,
                    Operation::Get => (store.get(name, None).await?, content.len() as u64),
                    Operation::Range => (store.get(name, Some(from..from + RANGE)).await?, RANGE),
                };
                ensure!(read == expected, "{read} bytes instead of {expected}");
                Ok(())
            })
        })
    };
    let durability = match operation {
        Operation::Put => store.durability(),
        _ => "",
    };
    Side::new(store.name(), durability, store.server(), work)
}
