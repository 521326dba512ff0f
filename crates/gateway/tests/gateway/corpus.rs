//! The attack corpus: every input of `tests/corpus` over a raw socket to a gateway, with a service
//! behind it that writes down what it gets. Behind each input follows an honest request, which is
//! answered where the connection goes on, and must be lost where it ends.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use sinew_gateway::GatewayConfig;

use crate::{
    h2_support::{
        DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, frame, request,
    },
    support::{Message, PATIENCE, World, config, name, reachable, route},
};

#[path = "corpus/reader.rs"]
pub(crate) mod reader;
#[path = "corpus/recorder.rs"]
pub(crate) mod recorder;

use reader::{Answer, Case, Family, Passed};
use recorder::{Recorder, SAYS};

/// What follows every input.
pub(crate) const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// Its stream, where there are streams: behind all those of the corpus.
pub(crate) const PROBE_STREAM: u32 = 100_001;

/// All files of the folder.
pub(crate) const FAMILIES: &[&str] = &[
    "authority",
    "chunks",
    "fields",
    "forwarding",
    "framing",
    "h2-bodies",
    "h2-connection",
    "h2-fields",
    "h2-floods",
    "h2-pseudo",
    "limits",
    "lines",
    "paths",
    "sequences",
];

/// A gateway as the family wants it, to a service that writes down.
pub(crate) fn start(family: &Family, recorder: &Recorder) -> World {
    let world = World::with(configured(family), &[], None);
    let address = reachable(recorder.address);
    world.discovery.set_addresses(&name("app"), &[address]);
    world
}

fn configured(family: &Family) -> GatewayConfig {
    let mut all = route("/**", "app");
    let mut config = config(Vec::new());
    // Nothing here depends on time, and machines are slow.
    config.limits.head_timeout = PATIENCE * 6;
    config.limits.body_timeout = PATIENCE * 6;
    for (setting, value) in &family.settings {
        match setting.as_str() {
            "head_bytes" => config.limits.head_bytes = *value,
            "headers" => config.limits.headers = usize::try_from(*value).unwrap(),
            "max_body" => all.max_body = *value,
            other => panic!("{}: no such setting: {other}", family.name),
        }
    }
    config.routing.routes.push(all);
    config
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let patience = Some(PATIENCE * 6);
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// Sends the input and reads all there is to read.
pub(crate) fn exchange(address: SocketAddr, case: &Case) -> Vec<u8> {
    let mut stream = connect(address);
    let mut bytes = case.input.clone();
    if !case.ends {
        bytes.extend(PROBE.as_bytes());
    }
    // Whoever has heard enough may close before all is written.
    let _ = stream.write_all(&bytes);
    if case.ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut said = Vec::new();
    // A connection that is reset has ended too.
    let _ = stream.read_to_end(&mut said);
    said
}

/// Cuts what was said into responses; what is left over is no response.
pub(crate) fn responses(mut said: &[u8], heads: &[bool]) -> (Vec<Message>, Vec<u8>) {
    let mut responses = Vec::new();
    while let Some(end) = said.windows(4).position(|part| part == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&said[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let mut message = Message {
            first: lines.next().unwrap_or_default().to_owned(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: Vec::new(),
        };
        said = &said[end + 4..];
        let to_head = heads.get(responses.len()).copied().unwrap_or_default();
        let length = message.header("content-length").filter(|_| !to_head);
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let (body, rest) = said.split_at(said.len().min(length));
        message.body = body.to_vec();
        said = rest;
        responses.push(message);
    }
    (responses, said.to_vec())
}

/// What is wrong with the outcome of a case, if anything is.
fn over_http1(world: &World, recorder: &Recorder, case: &Case) -> Result<(), String> {
    let said = exchange(world.gateway.address(), case);
    let heads: Vec<_> = case
        .answers
        .iter()
        .map(|answer| matches!(answer, Answer::ToHead(_)))
        .collect();
    let (mut answers, rest) = responses(&said, &heads);
    if !rest.is_empty() {
        return Err(format!("then {:?}", String::from_utf8_lossy(&rest)));
    }
    let mut seen = recorder.take();
    if case.open {
        let probe = answers.pop();
        if probe.is_none_or(|probe| probe.body != SAYS.as_bytes()) {
            return Err("the connection does not go on".to_owned());
        }
        let probe = seen.pop();
        if probe.is_none_or(|probe| !probe.first.starts_with("GET /probe ")) {
            return Err("another request than the honest one was the last".to_owned());
        }
    }
    let got: Vec<_> = answers.iter().map(answer_of).collect();
    let wanted = case.answers.iter().map(|answer| match answer {
        Answer::ToHead(status) => Answer::Status(*status, None),
        Answer::Status(status, code) => Answer::Status(*status, code.clone()),
        other => panic!("{other:?} is no answer of HTTP/1.1"),
    });
    let wanted: Vec<_> = wanted.collect();
    if got != wanted {
        return Err(format!("answered {got:?} instead of {wanted:?}"));
    }
    passed(&seen, &case.passes)
}

fn answer_of(response: &Message) -> Answer {
    let problem = response.header("content-type").as_deref() == Some("application/problem+json");
    let code = (problem && !response.body.is_empty()).then(|| response.code());
    Answer::Status(response.status(), code)
}

/// Whether the service got what it should have, and nothing else.
fn passed(seen: &[Message], wanted: &[Passed]) -> Result<(), String> {
    if matches!(wanted, [passed] if passed.first == "any") {
        return Ok(());
    }
    let method_and_target = |message: &Message| {
        let first = message.first.strip_suffix(" HTTP/1.1");
        first.unwrap_or(&message.first).to_owned()
    };
    let got: Vec<_> = seen.iter().map(method_and_target).collect();
    let names: Vec<_> = wanted.iter().map(|passed| passed.first.clone()).collect();
    if got != names {
        return Err(format!("{got:?} passed instead of {names:?}"));
    }
    for (seen, wanted) in seen.iter().zip(wanted) {
        for (field, value) in &wanted.fields {
            let got = seen.header(field);
            if got.as_ref() != Some(value) {
                return Err(format!("{field} passed as {got:?}"));
            }
        }
        for field in &wanted.absent {
            let names = &mut seen.headers.iter().map(|(name, _)| name);
            if names.any(|name| name.eq_ignore_ascii_case(field)) {
                return Err(format!("{field} passed"));
            }
        }
        if wanted.body.as_ref().is_some_and(|body| *body != seen.body) {
            let body = String::from_utf8_lossy(&seen.body).into_owned();
            return Err(format!("the body passed as {body:?}"));
        }
    }
    Ok(())
}

/// Reads a frame; `None` when the connection is over.
pub(crate) fn next_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(Frame {
        kind: head[3],
        stream: u32::from_be_bytes(head[5..9].try_into().unwrap()) & (u32::MAX >> 1),
        payload,
    })
}

/// The next that is an answer to a stream or the end of the connection, which is `None`.
pub(crate) fn next_answer(stream: &mut TcpStream) -> Option<(u32, Answer)> {
    loop {
        let frame = next_frame(stream)?;
        let answer = match frame.kind {
            RST_STREAM => Answer::Reset(frame.code()),
            GOAWAY => Answer::GoAway(frame.code()),
            DATA if frame.payload == SAYS.as_bytes() => Answer::Status(200, None),
            DATA if frame.payload.is_empty() => continue,
            DATA => {
                let problem = serde_json::from_slice::<sinew_core::Problem>(&frame.payload);
                problem.map_or(Answer::Status(0, None), |problem| {
                    Answer::Status(problem.status, Some(problem.code))
                })
            }
            _ => continue,
        };
        return Some((frame.stream, answer));
    }
}

fn over_http2(world: &World, recorder: &Recorder, case: &Case) -> Result<(), String> {
    let mut stream = connect(world.gateway.address());
    // The gateway may have closed before all of it is written.
    let _ = stream.write_all(&case.input);
    if case.ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut got = Vec::new();
    while got.len() < case.answers.len() {
        match next_answer(&mut stream) {
            Some((_, answer)) => {
                // Many a stream may be reset before the connection ends.
                let last = matches!(case.answers[got.len()], Answer::GoAway(_));
                if !last || matches!(answer, Answer::GoAway(_)) {
                    got.push(answer);
                }
            }
            None => break,
        }
    }
    let same = |(got, wanted): (&Answer, &Answer)| match wanted {
        Answer::Refused(code) => [Answer::Reset(*code), Answer::GoAway(*code)].contains(got),
        wanted => got == wanted,
    };
    if got.len() != case.answers.len() || !got.iter().zip(&case.answers).all(same) {
        return Err(format!("answered {got:?} instead of {:?}", case.answers));
    }
    let goes_on = probe(&mut stream);
    let mut seen = recorder.take();
    if case.open != goes_on {
        return Err(format!("whether the connection goes on: {goes_on}"));
    }
    if goes_on {
        seen.pop();
    }
    passed(&seen, &case.passes)
}

/// The honest request on its stream.
pub(crate) fn probe_bytes() -> Vec<u8> {
    let get = request("GET", "/probe", &[]);
    frame(HEADERS, END_HEADERS | END_STREAM, PROBE_STREAM, &get)
}

/// Whether a connection answers another request. Reads to its end otherwise.
pub(crate) fn probe(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(&probe_bytes());
    while let Some((id, answer)) = next_answer(stream) {
        if id == PROBE_STREAM {
            return answer == Answer::Status(200, None);
        }
    }
    false
}

/// Runs a file and tells all that is wrong at once.
fn run(name: &str) {
    let family = Family::read(name);
    let recorder = Recorder::start();
    let world = start(&family, &recorder);
    let faults: Vec<_> = family
        .cases
        .iter()
        .filter_map(|case| {
            recorder.take();
            let outcome = if family.http2 {
                over_http2(&world, &recorder, case)
            } else {
                over_http1(&world, &recorder, case)
            };
            Some(format!("{name}: {}: {}", case.name, outcome.err()?))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    world.eventually("no connection is left", |world| {
        let stats = world.gateway.stats();
        (stats.connections, stats.in_flight) == (0, 0)
    });
}

macro_rules! families {
    ($($test:ident: $file:literal,)*) => {
        $(#[test]
        fn $test() {
            run($file);
        })*

        #[test]
        fn no_file_is_left_out() {
            let mut files: Vec<_> = std::fs::read_dir(reader::folder())
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
                .filter_map(|file| file.strip_suffix(".txt").map(ToOwned::to_owned))
                .collect();
            files.sort();
            assert_eq!(files, FAMILIES);
            assert_eq!(FAMILIES, [$($file),*]);
            let cases = FAMILIES.iter().map(|name| Family::read(name).cases.len());
            assert!(cases.sum::<usize>() >= 250);
        }
    };
}

families! {
    authority: "authority",
    chunks: "chunks",
    fields: "fields",
    forwarding: "forwarding",
    framing: "framing",
    h2_bodies: "h2-bodies",
    h2_connection: "h2-connection",
    h2_fields: "h2-fields",
    h2_floods: "h2-floods",
    h2_pseudo: "h2-pseudo",
    limits: "limits",
    lines: "lines",
    paths: "paths",
    sequences: "sequences",
}
