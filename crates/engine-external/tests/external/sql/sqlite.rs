use std::sync::Arc;

use async_trait::async_trait;
use sinew_engine::sql::{
    Sql,
    suite::{Harness, Network, Opening, Subject},
};
use tempfile::TempDir;

super::conforms!(Files);

struct Files;

struct File {
    folder: TempDir,
    sql: Arc<dyn Sql>,
}

impl File {
    fn opened(folder: &TempDir, opening: &Opening) -> Arc<dyn Sql> {
        let url = format!("sqlite:{}/test.db?idle=1m", folder.path().display());
        super::open_as(url, opening, "sinew")
    }
}

#[async_trait]
impl Harness for Files {
    async fn create(&self) -> Box<dyn Subject> {
        let folder = tempfile::tempdir().expect("a folder");
        let sql = File::opened(&folder, &Opening::default());
        Box::new(File { folder, sql })
    }
}

#[async_trait]
impl Subject for File {
    fn sql(&self) -> Arc<dyn Sql> {
        self.sql.clone()
    }

    async fn open(&self, opening: Opening) -> Arc<dyn Sql> {
        File::opened(&self.folder, &opening)
    }

    async fn crash(&self) {
        unreachable!("it has no process");
    }

    async fn restart(&self) {
        unreachable!("it has no process");
    }

    async fn network(&self, _network: Network) {
        unreachable!("it has no network");
    }
}
