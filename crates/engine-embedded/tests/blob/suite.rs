use std::{fs, path::Path, sync::Arc};

use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine::blob::{
    Blob,
    suite::{self, End, Group, Harness, Subject},
};
use sinew_engine_embedded::{
    blob::{EmbeddedBlob, Options},
    storage::RealStorage,
};
use tempfile::TempDir;

struct Embedded;

#[async_trait]
impl Harness for Embedded {
    async fn create(&self) -> Box<dyn Subject> {
        let folder = TempDir::new().unwrap();
        let blob = Some(open(folder.path()).await);
        Box::new(EmbeddedSubject { blob, folder })
    }
}

struct EmbeddedSubject {
    blob: Option<Arc<EmbeddedBlob>>,
    folder: TempDir,
}

async fn open(folder: &Path) -> Arc<EmbeddedBlob> {
    let folder = folder.join("blob");
    let open = move || {
        EmbeddedBlob::open(
            Arc::new(RealStorage),
            folder,
            Clock::system(),
            Options::default(),
        )
    };
    Arc::new(tokio::task::spawn_blocking(open).await.unwrap().unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn blob(&self) -> Arc<dyn Blob> {
        self.blob.clone().unwrap()
    }

    async fn reopen(&mut self, end: End) {
        let before = self.blob.take().unwrap();
        if end == End::Kill {
            // What a killed process leaves is what the kernel has at that moment.
            let copied = TempDir::new().unwrap();
            copy(self.folder.path(), copied.path());
            self.folder = copied;
        } else {
            before.close().await.unwrap();
        }
        drop(before);
        self.blob = Some(open(self.folder.path()).await);
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::run(Group::$group, Arc::new(Embedded)).await;
            }
        )*
    };
}

groups! {
    embedded_blob_contract: Contract,
    embedded_blob_listing: Listing,
    embedded_blob_multipart: Multipart,
    embedded_blob_durability: Durability,
    embedded_blob_concurrency: Concurrency,
    embedded_blob_model: Model,
}
