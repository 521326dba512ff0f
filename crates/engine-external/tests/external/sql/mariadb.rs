use sinew_engine_external::sql::open;
use sinew_testbed::{Mariadb, Server};

use super::{
    replicas::{Controls, check},
    server::Servers,
};

super::conforms!(servers());

fn servers() -> Servers {
    Servers::start("mariadb", "test", Mariadb::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_as_fresh_as_they_say() {
    let program = Mariadb::default()
        .with("log-bin", "log")
        .with("server-id", "1");
    let primary = Server::start(program).expect("a primary");
    let program = Mariadb::default().with("server-id", "2");
    let mut second = Server::start(program).expect("a replica");
    let url = |server: &Server| format!("mariadb://sinew@{}/test?tls=off", server.address());
    let replica = open(&url(&second)).expect("the URL is right");
    let change = format!(
        "change master to master_host = '127.0.0.1', master_port = {}, master_user = 'sinew', \
         master_use_gtid = slave_pos",
        primary.port()
    );
    replica.execute(change.into()).await.expect("a primary");
    // `start` alone is no statement for services.
    let start = "execute immediate 'start slave'";
    replica.execute(start.into()).await.expect("it starts");
    let both = format!("{}&replicas={}", url(&primary), second.address());
    let sql = open(&both).expect("the URL is right");
    let controls = Controls {
        sql,
        replica,
        pause: "stop slave sql_thread",
        resume: start,
    };
    check(controls, move || second.kill()).await;
}
