//! What the conformance suites of all traits share: a case, and the running of many.

use std::{fmt::Debug, pin::Pin, time::Duration};

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

/// A case that takes longer than this hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs cases, each on a stand of its own, and panics with the list of those that failed. `promises`
/// tells the engine's name and whether it promises what a case needs; a case left out is named.
/// `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
pub(crate) async fn run<S, N: Copy + Debug>(
    group: impl Debug,
    cases: Vec<Case<S, N>>,
    stand: impl AsyncFn() -> S,
    promises: impl Fn(&S, N) -> (&'static str, bool),
) {
    let only = std::env::var("SINEW_SUITE_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for Case {
        name,
        clause,
        needs,
        run,
    } in cases.into_iter().filter(|case| case.name.contains(&only))
    {
        let stand = stand().await;
        let (engine, promised) = promises(&stand, needs);
        if !promised {
            println!("{name}: not for {engine}, needs {needs:?}");
            continue;
        }
        match tokio::time::timeout(CASE_TIMEOUT, tokio::spawn(run(stand))).await {
            Ok(Ok(())) => println!("{name}: ok"),
            Ok(Err(_)) => failed.push(format!("{name}: broken: {clause}")),
            Err(_) => failed.push(format!("{name}: hangs: {clause}")),
        }
    }
    assert!(failed.is_empty(), "{group:?}:\n{}", failed.join("\n"));
}
