use std::process::ExitCode;

use sinew_node::model::{
    Backend, FieldMatch, ListedRoute, Route, RouteSource, Routes, RoutesStatus,
};

use super::Output;
use crate::{table, time::moment};

/// `sinew routes` alone.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let routes: Routes = args.output.target.get("/v1/routes")?;
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&routes)?))?;
    } else {
        table::print(&render(&routes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(routes: &Routes) -> String {
    let mut text = if routes.routes.is_empty() {
        "there is no route; write [[routes]] into sinew.toml, or `sinew routes set NAME path=… service=…`\n"
            .to_owned()
    } else {
        let rows: Vec<_> = routes.routes.iter().map(row).collect();
        table::render(
            [
                "NAME", "HOST", "PATH", "IF", "TO", "AUTH", "TIMEOUT", "RETRIES", "BODY", "FROM",
            ],
            &rows,
        )
    };
    text.push('\n');
    text.push_str(&status(&routes.status));
    text
}

/// Which stored version is served, in a line or a few.
pub(super) fn status(status: &RoutesStatus) -> String {
    let mut text = match (status.version, status.stored_version) {
        (0, Some(0)) => "no routes are stored\n".to_owned(),
        (0, _) => "none of the stored routes are served\n".to_owned(),
        (version, _) => format!(
            "version {version} of the stored routes, served since {}\n",
            moment(status.changed_ms)
        ),
    };
    if status.is_stale {
        text.push_str("STALE: the store is out of reach; there may be a newer version\n");
    }
    if let Some(failure) = &status.failure {
        text.push_str(&format!(
            "FAILED: this node cannot serve version {}: {} ({})\n",
            failure.version,
            table::one_line(&failure.reason),
            failure.code
        ));
    }
    text
}

fn row(listed: &ListedRoute) -> [String; 10] {
    let route = &listed.route;
    let dash = || "-".to_owned();
    [
        route.name.clone().unwrap_or_else(dash),
        route.host.clone().unwrap_or_else(|| "*".to_owned()),
        route.path.clone(),
        conditions(route),
        target(route) + &copies(route),
        if route.auth.is_empty() {
            dash()
        } else {
            route.auth.join(",")
        },
        route.timeout.clone(),
        route.retries.to_string(),
        route.max_body.clone(),
        match listed.source {
            RouteSource::File => "file".to_owned(),
            RouteSource::Stored => "stored".to_owned(),
        },
    ]
}

/// Everything but host and path that a request must meet, as short as it can be read.
fn conditions(route: &Route) -> String {
    let mut parts = Vec::new();
    if route.priority != 0 {
        parts.push(format!("priority {}", route.priority));
    }
    if !route.methods.is_empty() {
        parts.push(route.methods.join("|"));
    }
    for (kind, fields) in [
        ("", &route.headers),
        ("cookie ", &route.cookies),
        ("?", &route.query),
    ] {
        parts.extend(
            fields
                .iter()
                .map(|field| format!("{kind}{}", condition(field))),
        );
    }
    if !route.sources.is_empty() {
        parts.push(format!("from {}", route.sources.join("|")));
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

fn condition(field: &FieldMatch) -> String {
    let name = &field.name;
    match (&field.exact, &field.regex, field.present) {
        (Some(exact), ..) => format!("{name}={exact}"),
        (None, Some(regex), _) => format!("{name}~{regex}"),
        (None, None, Some(false)) => format!("no {name}"),
        (None, None, _) => name.clone(),
    }
}

fn target(route: &Route) -> String {
    if !route.backends.is_empty() {
        let all: u32 = route.backends.iter().map(weight).sum();
        let share = |backend| format!("{} {}/{all}", place(backend), weight(backend));
        return route
            .backends
            .iter()
            .map(share)
            .collect::<Vec<_>>()
            .join(", ");
    }
    match (&route.service, &route.redirect, &route.reply) {
        (Some(service), ..) => service.clone(),
        (None, Some(redirect), _) => format!("{} {}", redirect.status, redirect.to),
        (None, None, Some(reply)) => format!("reply {}", reply.status),
        (None, None, None) => "-".to_owned(),
    }
}

fn copies(route: &Route) -> String {
    let copies = route.mirror.as_ref();
    let text = copies.map(|mirror| format!(", {}% copied to {}", mirror.percent, mirror.service));
    text.unwrap_or_default()
}

fn weight(backend: &Backend) -> u32 {
    backend.weight.unwrap_or(1)
}

/// `orders{version=2}`, `legacy`, `10.0.0.1:8080`.
fn place(backend: &Backend) -> String {
    let subset = backend
        .subset
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let subset = subset.collect::<Vec<_>>().join(",");
    match backend.service.as_ref().or(backend.name.as_ref()) {
        Some(name) if subset.is_empty() => name.clone(),
        Some(name) => format!("{name}{{{subset}}}"),
        None => backend.addresses.join("|"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_targets_are_shown_in_short() {
        let read = |more: &str| {
            let text = format!(
                r#"{{"path":"/a",{more},"connect_timeout":"1s","timeout":"15s","retries":1,"retry_on":["reset"],"retry_backoff":"10ms","max_body":"1MiB"}}"#
            );
            let route: Route = serde_json::from_str(&text).unwrap();
            [conditions(&route), target(&route) + &copies(&route)]
        };
        assert_eq!(read(r#""service":"a""#), ["-", "a"]);
        assert_eq!(
            read(
                r#""priority":2,"methods":["GET","PUT"],"headers":[{"name":"x","exact":"1"},{"name":"y","present":false}],
                "cookies":[{"name":"c","regex":"b+"}],"query":[{"name":"q"}],"sources":["10.0.0.0/8"],
                "redirect":{"to":"/b","status":308}"#
            ),
            [
                "priority 2, GET|PUT, x=1, no y, cookie c~b+, ?q, from 10.0.0.0/8",
                "308 /b"
            ]
        );
        assert_eq!(
            read(
                r#""backends":[{"service":"a","subset":{"v":"2"},"weight":9},{"addresses":["10.0.0.1:80"]}],
                "mirror":{"service":"b","percent":10,"timeout":"5s"}"#
            ),
            ["-", "a{v=2} 9/10, 10.0.0.1:80 1/10, 10% copied to b"]
        );
    }
}
