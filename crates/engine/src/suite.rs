//! What the conformance suites of all traits share: a case, and the running of many.

use std::{fmt::Debug, fs::File, io::Write, path::Path, pin::Pin, time::Duration};

/// One promise of a contract, put to an engine. `S` is what the case stands on: an engine of its
/// own and what helps to ask it; `N` says what the engine must promise for the case to make sense.
pub(crate) struct Case<S, N> {
    pub(crate) name: &'static str,
    /// The promise that the case checks, in the contract's words.
    pub(crate) clause: &'static str,
    pub(crate) needs: N,
    pub(crate) run: fn(S) -> CaseFuture,
}

pub(crate) type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

// Derived, it would ask `S` to be `Clone`.
impl<S, N: Copy> Clone for Case<S, N> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// What an engine says of itself when it is asked whether a case is for it.
pub(crate) struct Promised {
    engine: &'static str,
    capability: String,
    met: bool,
}

impl Promised {
    /// `met`: whether the engine promises what the case needs.
    pub(crate) fn new(engine: &'static str, capability: &impl Debug, met: bool) -> Self {
        Self {
            engine,
            capability: format!("{capability:?}"),
            met,
        }
    }
}

/// A case that takes longer than this hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs cases of the trait `of`, each on a stand of its own, and panics with the list of those that failed.
/// A case that needs what the engine does not promise is left out and named.
///
/// `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
/// `SINEW_CONFORMANCE=folder` keeps what each case did, for `docs/engines.md`.
pub(crate) async fn run<S, N: Copy + Debug>(
    of: &'static str,
    group: impl Debug,
    cases: Vec<Case<S, N>>,
    stand: impl AsyncFn() -> S,
    promises: impl Fn(&S, N) -> Promised,
) {
    let only = std::env::var("SINEW_SUITE_CASE").unwrap_or_default();
    let group = format!("{group:?}");
    let mut failed = Vec::new();
    for Case {
        name,
        clause,
        needs,
        run,
    } in cases.into_iter().filter(|case| case.name.contains(&only))
    {
        let stand = stand().await;
        let promised = promises(&stand, needs);
        let record = |result: &str| note(of, &promised, [&group, name, result, clause]);
        if !promised.met {
            println!("{name}: not for {}, needs {needs:?}", promised.engine);
            record(&format!("needs {needs:?}"));
            continue;
        }
        match tokio::time::timeout(CASE_TIMEOUT, tokio::spawn(run(stand))).await {
            Ok(Ok(())) => {
                println!("{name}: ok");
                record("ok");
            }
            Ok(Err(_)) => failed.push(format!("{name}: broken: {clause}")),
            Err(_) => failed.push(format!("{name}: hangs: {clause}")),
        }
    }
    assert!(failed.is_empty(), "{group}:\n{}", failed.join("\n"));
}

/// Adds a line to what `SINEW_CONFORMANCE` collects: `trait engine group case result clause capability`, with
/// tabs between.
fn note(of: &str, promised: &Promised, case: [&str; 4]) {
    let Some(folder) = std::env::var_os("SINEW_CONFORMANCE") else {
        return;
    };
    let engine = promised.engine;
    let [group, name, result, clause] = case;
    let capability = &promised.capability;
    let line = format!("{of}\t{engine}\t{group}\t{name}\t{result}\t{clause}\t{capability}\n");
    let file = Path::new(&folder).join(format!("{of}-{engine}.tsv"));
    // Several test processes may write at once: one call each.
    let written = File::options()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(why) = written {
        panic!("SINEW_CONFORMANCE: {}: {why}", file.display());
    }
}
