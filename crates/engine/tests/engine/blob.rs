use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine::blob::{
    Blob, MemoryBlob,
    suite::{self, End, Group, Harness, Subject},
};

struct Memory;

#[async_trait]
impl Harness for Memory {
    async fn create(&self) -> Box<dyn Subject> {
        Box::new(MemorySubject(MemoryBlob::new(Clock::system())))
    }
}

struct MemorySubject(MemoryBlob);

#[async_trait]
impl Subject for MemorySubject {
    fn blob(&self) -> Arc<dyn Blob> {
        Arc::new(self.0.clone())
    }

    async fn reopen(&mut self, _end: End) {
        unreachable!("the reference does not promise durability");
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::run(Group::$group, Arc::new(Memory)).await;
            }
        )*
    };
}

groups! {
    memory_blob_contract: Contract,
    memory_blob_listing: Listing,
    memory_blob_multipart: Multipart,
    memory_blob_durability: Durability,
    memory_blob_concurrency: Concurrency,
    memory_blob_model: Model,
}
