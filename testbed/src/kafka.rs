use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Program, answers, certificate, find, free_port, programs, run};

/// What is installed: a release of `org.apache.kafka:kafka_2.13` and its tools, with what they need, from Maven's central repository.
macro_rules! version {
    () => {
        "4.1.0"
    };
}
/// Names the cluster; each server is one of its own.
const CLUSTER: &str = "c2luZXctdGVzdGJlZC0xMQ";

/// Kafka as a single node without ZooKeeper. Without users it lets everybody in; with some, only those, by SCRAM-SHA-256 or
/// PLAIN.
#[derive(Clone, Debug, Default)]
pub struct Kafka {
    /// Name and password.
    users: Vec<(String, String)>,
    is_secret: bool,
    settings: Vec<String>,
}

impl Kafka {
    /// Where its jars are in [`programs`].
    pub const FOLDER: &str = concat!("kafka-", version!(), "/jars");
    /// The SASL mechanisms of a server with users.
    pub const MECHANISMS: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

    /// Brings the server into [`programs`], unless it is there. Wants Java and Maven.
    pub fn install() -> Result<()> {
        libraries().map(drop)
    }

    /// Lets a user in, with a password.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Speaks TLS with its clients, with a certificate for 127.0.0.1 that signs itself: `server.crt` in its folder.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// With a line more in the server's properties.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name}={value}"));
        self
    }

    /// Lets its users do only what [`Kafka::allow`] says.
    #[must_use]
    pub fn guarded(self) -> Self {
        let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
        self.with("authorizer.class.name", authorizer)
            .with("super.users", "User:ANONYMOUS")
    }

    /// Adds rights on a server that was started here: the arguments of `kafka-acls.sh --add`.
    pub fn allow(folder: &Path, rights: &[&str]) -> Result<()> {
        let server = Self::inner_address(folder)?;
        let mut command = java(folder, "-Xmx128m")?;
        command.args([
            "org.apache.kafka.tools.AclCommand",
            "--bootstrap-server",
            &server,
        ]);
        run(command.arg("--add").args(rights))
    }

    /// Of each partition of a topic the first offset that there is.
    pub fn starts(folder: &Path, topic: &str) -> Result<Vec<u64>> {
        let server = Self::inner_address(folder)?;
        let mut command = java(folder, "-Xmx128m")?;
        command
            .args([
                "org.apache.kafka.tools.GetOffsetShell",
                "--time",
                "earliest",
            ])
            .args(["--bootstrap-server", &server, "--topic", topic]);
        let output = command.output()?;
        let said = String::from_utf8(output.stdout)?;
        said.lines()
            .filter_map(|line| line.strip_prefix(topic)?.rsplit_once(':'))
            .map(|(_, offset)| offset.parse().context("not an offset"))
            .collect()
    }

    /// From its next start on, a server that was started here sends its clients to this port, which a proxy before
    /// it has.
    pub fn advertise(folder: &Path, port: u16) -> Result<()> {
        Ok(fs::write(folder.join("advertised"), port.to_string())?)
    }

    /// Where a server that was started here can be reached without a user, whatever it advertises.
    pub fn inner_address(folder: &Path) -> Result<String> {
        let port = fs::read_to_string(folder.join("internal.port"))?;
        Ok(format!("127.0.0.1:{port}"))
    }
}

/// Kafka's jars; they are fetched when they are not there.
fn libraries() -> Result<PathBuf> {
    let libraries = programs().join(Kafka::FOLDER);
    let folder = libraries.parent().context("jars are in a folder")?;
    if !libraries.is_dir() {
        find("java", &[], "default-jre-headless")?;
        let maven = find("mvn", &[], "maven")?;
        fs::create_dir_all(folder)?;
        let project = folder.join("pom.xml");
        let description = format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n\
             <modelVersion>4.0.0</modelVersion>\n\
             <groupId>sinew.testbed</groupId><artifactId>kafka</artifactId><version>1</version>\n\
             <packaging>pom</packaging>\n\
             <dependencies>\n\
             <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>\n\
             <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version></dependency>\n\
             </dependencies>\n\
             </project>\n",
            version = version!()
        );
        fs::write(&project, description)?;
        // Whole or not at all.
        let half = tempfile::tempdir_in(folder)?;
        let fetched = half.path().join("jars");
        run(Command::new(maven)
            .args(["-q", "-B", "-f"])
            .arg(&project)
            .arg("dependency:copy-dependencies")
            .arg("-DincludeScope=runtime")
            .arg(format!("-DoutputDirectory={}", fetched.display())))
        .context("Kafka cannot be fetched")?;
        let moved = fs::rename(&fetched, &libraries);
        // Somebody else may have been faster.
        if !libraries.is_dir() {
            moved?;
        }
    }
    Ok(libraries)
}

fn java(folder: &Path, heap: &str) -> Result<Command> {
    let mut command = Command::new(find("java", &[], "default-jre-headless")?);
    command
        .arg(heap)
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-cp")
        .arg(libraries()?.join("*"))
        .current_dir(folder);
    Ok(command)
}

impl Program for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["default-jre-headless", "maven"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let (internal, controller) = (free_port()?, free_port()?);
        let data = folder.join("data").display().to_string();
        let protocol = match (self.users.is_empty(), self.is_secret) {
            (true, false) => "PLAINTEXT",
            (true, true) => "SSL",
            (false, false) => "SASL_PLAINTEXT",
            (false, true) => "SASL_SSL",
        };
        let mut settings = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=INTERNAL\n\
             listener.security.protocol.map=CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             listeners=CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}\n\
             log.dirs={data}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             num.network.threads=2\n\
             num.io.threads=4\n\
             log.cleaner.enable=false\n\
             controlled.shutdown.enable=true\n"
        );
        if !self.users.is_empty() {
            settings.push_str(&format!(
                "sasl.enabled.mechanisms={}\n",
                Self::MECHANISMS.join(",")
            ));
            let known: String = self
                .users
                .iter()
                .map(|(name, password)| format!(" user_{name}=\"{password}\""))
                .collect();
            settings.push_str(&format!(
                "listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required{known};\n"
            ));
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                settings.push_str(&format!(
                    "listener.name.client.{mechanism}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
                ));
            }
        }
        if self.is_secret {
            let store = key_store(folder)?;
            settings.push_str(&format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={}\n",
                store.display()
            ));
        }
        for setting in &self.settings {
            settings.push_str(setting);
            settings.push('\n');
        }
        fs::write(folder.join("base.properties"), settings)?;
        fs::write(folder.join("internal.port"), internal.to_string())?;
        Self::advertise(folder, port)?;
        properties(folder)?;
        let mut format = java(folder, "-Xmx128m")?;
        format
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])
            .arg(folder.join("server.properties"));
        for (name, password) in &self.users {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format.arg("--add-scram").arg(format!(
                    "{mechanism}=[name=\"{name}\",password=\"{password}\"]"
                ));
            }
        }
        run(&mut format)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        properties(folder)?;
        let mut command = java(folder, "-Xmx256m")?;
        command
            .arg("kafka.Kafka")
            .arg(folder.join("server.properties"));
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}

/// Makes a certificate that signs itself; where it stands with its key.
fn key_store(folder: &Path) -> Result<PathBuf> {
    certificate(folder)?;
    let read = |file: &str| fs::read_to_string(folder.join(file));
    let store = folder.join("server.pem");
    fs::write(&store, read("server.key")? + &read("server.crt")?)?;
    Ok(store)
}

/// Writes the server's properties with the port that its clients are sent to now.
fn properties(folder: &Path) -> Result<()> {
    let read = |file: &str| {
        fs::read_to_string(folder.join(file)).with_context(|| format!("{file} was not prepared"))
    };
    let (base, port, internal) = (
        read("base.properties")?,
        read("advertised")?,
        read("internal.port")?,
    );
    let advertised =
        format!("advertised.listeners=CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}\n");
    Ok(fs::write(
        folder.join("server.properties"),
        base + &advertised,
    )?)
}
