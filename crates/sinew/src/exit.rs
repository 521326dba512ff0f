//! Exit codes: 0 ok; 1 the run failed; 2 wrong usage or configuration; 3 port taken; 4 data folder
//! locked by another process; 5 the node cannot be reached; 70 a defect in Sinew.

use std::process::ExitCode;

use sinew_core::{Error, Kind};

/// The exit code that an error stands for, told by the first [`Error`] in its chain.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    let Some(error) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
    else {
        return 1;
    };
    match error.code() {
        code if code.starts_with("config.") => 2,
        "gateway.config_invalid" | "gateway.routes_invalid" | "gateway.access_log" => 2,
        "routes.document_invalid" | "routes.conflict_with_file" | "routes.jwt_unconfigured" => 2,
        "node.port_taken" => 3,
        "node.data_locked" | "kv.locked" | "bus.locked" => 4,
        "node.unreachable" => 5,
        _ if error.kind() == Kind::Internal => 70,
        _ => 1,
    }
}

/// Tells the user what went wrong and answers the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    match error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
    {
        Some(known) => eprintln!("error: {}", known.detail()),
        None => eprintln!("error: {error:#}"),
    }
    ExitCode::from(code_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let cases = [
            ("config.invalid", Kind::InvalidArgument, 2),
            ("node.port_taken", Kind::FailedPrecondition, 3),
            ("node.data_locked", Kind::FailedPrecondition, 4),
            ("node.unreachable", Kind::Unavailable, 5),
            ("registry.instance_unknown", Kind::NotFound, 1),
            ("node.defect", Kind::Internal, 70),
        ];
        for (code, kind, exit) in cases {
            let error = anyhow::Error::new(Error::new(kind, code, "x")).context("outer");
            assert_eq!(code_of(&error), exit, "{code}");
        }
        assert_eq!(code_of(&anyhow::anyhow!("anything else")), 1);
    }
}
