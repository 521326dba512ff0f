use std::{fs, path::Path, process::Command};

use anyhow::Result;
use sinew_core::Kind;
use sinew_engine_external::sql::open;
use sinew_testbed::{Postgres, Program, Server, find, run};

use super::{
    replicas::{Controls, check},
    server::Servers,
};

super::conforms!(servers());

fn servers() -> Servers {
    Servers::start("postgres", "postgres", Postgres::default())
}

/// A standby that streams from the primary on this port.
struct Standby(u16);

impl Program for Standby {
    fn name(&self) -> &'static str {
        "standby"
    }

    fn packages(&self) -> &'static [&'static str] {
        Postgres::default().packages()
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        // For the folder and its owner.
        Postgres::default().prepare(folder, port)?;
        let (data, copy) = (folder.join("data"), folder.join("copy"));
        let place = "/usr/lib/postgresql/15/bin";
        run(
            Command::new(find("pg_basebackup", &[place], "postgresql-client")?)
                .args([
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "sinew",
                    "-R",
                    "-X",
                    "stream",
                    "-c",
                    "fast",
                ])
                .args(["-p", &self.0.to_string()])
                .arg("-D")
                .arg(&copy),
        )?;
        run(Command::new("chown")
            .arg("-R")
            .arg("--reference")
            .arg(&data)
            .arg(&copy))?;
        fs::remove_dir_all(&data)?;
        fs::rename(copy, data)?;
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        Postgres::default().command(folder, port)
    }

    fn is_ready(&self, folder: &Path, port: u16) -> bool {
        Postgres::default().is_ready(folder, port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_as_fresh_as_they_say() {
    let primary = Server::start(Postgres::default()).expect("a primary");
    let alone = open(&format!(
        "postgres://sinew@{}/postgres?tls=off",
        primary.address()
    ))
    .expect("the URL is right");
    let rules = primary.folder().join("data/pg_hba.conf");
    let mut text = fs::read_to_string(&rules).expect("rules");
    text.push_str("host replication sinew 127.0.0.1/32 trust\n");
    fs::write(&rules, text).expect("rules");
    let reload = alone.query("select pg_reload_conf()".into()).await;
    reload.expect("it reads its rules");
    let mut standby = Server::start(Standby(primary.port())).expect("a standby");
    let replica = open(&format!(
        "postgres://sinew@{}/postgres?tls=off",
        standby.address()
    ))
    .expect("the URL is right");
    let refused = replica.execute("create table x (id integer)".into()).await;
    let refused = refused.expect_err("a standby cannot be written");
    assert_eq!(
        (refused.kind(), refused.code()),
        (Kind::FailedPrecondition, "sql.read_only")
    );
    let sql = open(&format!(
        "postgres://sinew@{}/postgres?tls=off&replicas={}",
        primary.address(),
        standby.address()
    ))
    .expect("the URL is right");
    assert!(sql.capability().replicas);
    let controls = Controls {
        sql,
        replica,
        pause: "do $$ begin perform pg_wal_replay_pause(); end $$",
        resume: "do $$ begin perform pg_wal_replay_resume(); end $$",
    };
    check(controls, move || standby.kill()).await;
}
