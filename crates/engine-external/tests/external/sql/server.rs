//! A server for the cases of one group: each case has a database of its own on it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use sinew_engine::sql::{
    Sql,
    suite::{Harness, Network, Opening, Subject},
};
use sinew_testbed::{Program, Proxy, Server};

#[derive(Clone)]
pub(crate) struct Servers {
    shared: Arc<Shared>,
}

struct Shared {
    scheme: &'static str,
    /// The database that is always there.
    first: &'static str,
    server: Mutex<Server>,
    address: String,
    proxy: Proxy,
    databases: AtomicU32,
}

impl Servers {
    pub(crate) fn start(scheme: &'static str, first: &'static str, program: impl Program) -> Self {
        let server = Server::start(program).expect("the server");
        let address = server.address();
        let proxy = Proxy::to(&address).expect("a proxy");
        Self {
            shared: Arc::new(Shared {
                scheme,
                first,
                server: Mutex::new(server),
                address,
                proxy,
                databases: AtomicU32::new(0),
            }),
        }
    }

    fn opened(&self, database: &str, opening: &Opening) -> Arc<dyn Sql> {
        let Shared { scheme, proxy, .. } = &*self.shared;
        let address = match opening.distant {
            true => proxy.address(),
            false => self.shared.address.clone(),
        };
        let url = format!("{scheme}://sinew@{address}/{database}?tls=off");
        super::open_as(url, opening, &database.replace('_', "-"))
    }
}

struct Database {
    servers: Servers,
    name: String,
    sql: Arc<dyn Sql>,
}

#[async_trait]
impl Harness for Servers {
    async fn create(&self) -> Box<dyn Subject> {
        let number = self.shared.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("case_{number}");
        let first = self.opened(self.shared.first, &Opening::default());
        let create = format!("create database {name}").into();
        first.execute(create).await.expect("a database");
        first.close().await;
        let sql = self.opened(&name, &Opening::default());
        Box::new(Database {
            servers: self.clone(),
            name,
            sql,
        })
    }
}

impl Database {
    async fn start_again_after(&self, end: fn(&mut Server)) {
        let shared = Arc::clone(&self.servers.shared);
        let ended = tokio::task::spawn_blocking(move || {
            let mut server = shared.server.lock().expect("nobody panicked with it");
            end(&mut server);
            server.start_again().expect("it starts again");
        });
        ended.await.expect("it does not panic");
    }
}

#[async_trait]
impl Subject for Database {
    fn sql(&self) -> Arc<dyn Sql> {
        self.sql.clone()
    }

    async fn open(&self, opening: Opening) -> Arc<dyn Sql> {
        self.servers.opened(&self.name, &opening)
    }

    async fn crash(&self) {
        self.start_again_after(Server::kill).await;
    }

    async fn restart(&self) {
        self.start_again_after(Server::stop).await;
    }

    async fn network(&self, network: Network) {
        let proxy = &self.servers.shared.proxy;
        match network {
            Network::Cut => proxy.cut(),
            Network::Mended => proxy.mend(),
            Network::Reset => proxy.reset(),
        }
    }
}
