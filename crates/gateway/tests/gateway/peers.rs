//! The attack corpus through nginx and HAProxy, beside Sinew: it must not pass on what both refuse.
//!
//! All have the same service behind them, and what passes is what it gets as a whole request.

use std::{
    collections::BTreeMap, fmt::Write as _, io::Write, net::SocketAddr, thread, time::Duration,
};

use sinew_testbed::{Haproxy, Nginx, Server};

use crate::{
    corpus::{
        FAMILIES, PROBE_STREAM, connect, exchange, next_frame, probe_bytes,
        reader::{Case, Family},
        recorder::Recorder,
        responses, start,
    },
    h2_support::{GOAWAY, HEADERS, RST_STREAM},
    support::Message,
};

/// How long a proxy's word on a case may follow that on the honest request behind it.
const SOON: Duration = Duration::from_millis(500);

/// What both refuse and Sinew passes all the same, and why.
const KNOWN: &[(&str, &str)] = &[
    // The `h2` crate drops such a field before anybody sees it. Nothing of it passes.
    ("h2-fields", "a trailer that is a pseudo-field"),
];

/// What became of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The requests that the service got, the honest one behind them aside.
    passed: Vec<String>,
    /// What the client was told first.
    told: String,
}

/// By family and case.
type Outcomes = BTreeMap<(String, String), Outcome>;

impl Outcome {
    fn of(said: String, seen: &[Message]) -> Self {
        let passed = seen.iter().filter(|request| !is_probe(request));
        Self {
            passed: passed.map(described).collect(),
            told: said,
        }
    }

    fn text(&self) -> String {
        match self.passed.as_slice() {
            [] => self.told.clone(),
            passed => format!("passes {}", passed.join(", ")),
        }
    }
}

fn is_probe(request: &Message) -> bool {
    request.first.starts_with("GET /probe ")
}

fn described(request: &Message) -> String {
    let mut words = request.first.split(' ');
    let (method, target) = (words.next(), words.next());
    let first = [method, target].map(Option::unwrap_or_default).join(" ");
    match request.body.len() {
        0 => first,
        length => format!("{first} ({length} B)"),
    }
}

fn over_http1(address: SocketAddr, case: &Case) -> String {
    let (answers, _) = responses(&exchange(address, case), &[]);
    match answers.first() {
        Some(answer) => answer.status().to_string(),
        None => "closed".to_owned(),
    }
}

/// The first word on any stream but the honest request's.
fn over_http2(address: SocketAddr, case: &Case) -> String {
    let mut stream = connect(address);
    // Whoever has heard enough may close before all is written.
    let _ = stream.write_all(&case.input);
    let _ = stream.write_all(&probe_bytes());
    let mut told = None;
    while let Some(frame) = next_frame(&mut stream) {
        let (own, word) = match frame.kind {
            HEADERS => (frame.stream == PROBE_STREAM, "answered"),
            RST_STREAM => (frame.stream == PROBE_STREAM, "reset"),
            GOAWAY => (false, "GOAWAY"),
            _ => continue,
        };
        if !own {
            told.get_or_insert(word);
        } else if told.is_some() {
            break;
        } else {
            // Perhaps nothing is said of the case itself.
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
    }
    told.unwrap_or("nothing").to_owned()
}

/// Sends every case, one after the other.
fn run(families: &[Family], address: impl Fn(&Family) -> SocketAddr, from: &Recorder) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for family in families {
        let address = address(family);
        for case in &family.cases {
            from.take();
            let told = if family.http2 {
                over_http2(address, case)
            } else {
                over_http1(address, case)
            };
            let key = (family.name.clone(), case.name.clone());
            outcomes.insert(key, Outcome::of(told, &from.take()));
        }
    }
    outcomes
}

/// Those that do not depend on how a proxy is configured.
fn families() -> Vec<Family> {
    let all = FAMILIES.iter().map(|name| Family::read(name));
    all.filter(|family| family.settings.is_empty()).collect()
}

fn through_sinew() -> Outcomes {
    let (families, recorder) = (families(), Recorder::start());
    let world = start(&families[0], &recorder);
    run(&families, |_| world.gateway.address(), &recorder)
}

fn through_nginx() -> Outcomes {
    let (families, recorder) = (families(), Recorder::start());
    let [http1, http2] = [false, true].map(|http2| {
        let to = recorder.address;
        Server::start(Nginx { to, http2 }).unwrap()
    });
    let address = |family: &Family| local(if family.http2 { &http2 } else { &http1 });
    run(&families, address, &recorder)
}

fn through_haproxy() -> Outcomes {
    let (families, recorder) = (families(), Recorder::start());
    let to = recorder.address;
    let haproxy = Server::start(Haproxy { to }).unwrap();
    run(&families, |_| local(&haproxy), &recorder)
}

fn local(server: &Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

#[test]
fn nothing_passes_that_both_peers_refuse() {
    let (nginx, haproxy) = (thread::spawn(through_nginx), thread::spawn(through_haproxy));
    let sinew = through_sinew();
    let (nginx, haproxy) = (nginx.join().unwrap(), haproxy.join().unwrap());
    let mut faults = Vec::new();
    let mut table = String::new();
    let (mut differ, mut stricter) = (0, 0);
    for (key, ours) in &sinew {
        let (family, case) = key;
        let theirs = [&nginx[key], &haproxy[key]];
        let most = theirs.map(|outcome| outcome.passed.len()).into_iter().max();
        if Some(ours.passed.len()) > most && !KNOWN.contains(&(family.as_str(), case.as_str())) {
            faults.push(format!("{family}: {case}: {}", ours.text()));
        }
        if theirs.iter().any(|outcome| outcome.passed != ours.passed) {
            differ += 1;
            stricter += usize::from(ours.passed.is_empty());
            let texts = [ours, theirs[0], theirs[1]].map(Outcome::text);
            let _ = writeln!(table, "| {family} | {case} | {} |", texts.join(" | "));
        }
    }
    println!("| family | input | Sinew | nginx | HAProxy |\n|---|---|---|---|---|\n{table}");
    println!(
        "{} inputs; the three differ in what passes on {differ}, and of these Sinew passes nothing on {stricter}",
        sinew.len()
    );
    assert!(sinew.values().any(|outcome| !outcome.passed.is_empty()));
    assert!(faults.is_empty(), "both refuse:\n{}", faults.join("\n"));
}
