use std::{fmt::Write, path::PathBuf, process::ExitCode};

use serde_json::{Value, json};
use sinew_node::offline::{self, InspectOptions, Inspection, TopicSummary};

use crate::table;

/// `sinew inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The data folder, or the folder of an embedded store; nothing may run on it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Show the keys that begin with this; with "" all
    #[arg(long, value_name = "PREFIX")]
    keys: Option<String>,
    /// At most so many keys
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Show the values of the keys, too; they may be secrets
    #[arg(long, requires = "keys")]
    values: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Ends with 1 when something is damaged, for scripts.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = InspectOptions {
        keys: args.keys.clone().map(String::into_bytes),
        limit: args.limit,
    };
    let found = offline::inspect(&args.folder, &options)?;
    if args.json {
        let text = serde_json::to_string_pretty(&as_json(&found, args.values))?;
        table::print(&format!("{text}\n"))?;
    } else {
        table::print(&render(&found, args.keys.is_some(), args.values))?;
    }
    found.check()?;
    Ok(ExitCode::SUCCESS)
}

fn name(path: &std::path::Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn maybe(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn render(found: &Inspection, with_keys: bool, with_values: bool) -> String {
    let mut text = format!(
        "{}, format {}\n\nlog\n",
        found.folder.display(),
        maybe(found.format)
    );
    let segments: Vec<_> = found
        .segments
        .iter()
        .map(|segment| {
            let is_broken = found
                .damage
                .iter()
                .any(|damage| damage.file == segment.file);
            [
                name(&segment.file),
                maybe(segment.first),
                maybe(segment.last),
                segment.records.to_string(),
                segment.used.to_string(),
                segment.bytes.to_string(),
                if is_broken { "DAMAGED" } else { "whole" }.to_owned(),
            ]
        })
        .collect();
    let header = ["FILE", "FIRST", "LAST", "RECORDS", "USED", "BYTES", "STATE"];
    text.push_str(&table::render(header, &segments));
    let kv = &found.kv;
    let file_bytes: u64 = kv.files.iter().map(|(_, bytes)| bytes).sum();
    let _ = write!(
        text,
        "\nkv\nrevision     {}\nhistory      since revision {}\nkeys         {} ({} bytes, values {} bytes)\n\
         leases       {}\nfiles        {} ({file_bytes} bytes)\n",
        kv.revision,
        kv.compacted,
        kv.keys,
        kv.key_bytes,
        kv.value_bytes,
        kv.leases,
        kv.files.len(),
    );
    if let Some(topics) = &found.bus {
        let _ = write!(
            text,
            "\nbus, as of its last checkpoint ({} later records in the log)\n",
            found.bus_records
        );
        text.push_str(&render_topics(topics));
    }
    if with_keys {
        text.push_str("\nkeys\n");
        let rows: Vec<_> = kv
            .shown
            .iter()
            .map(|key| {
                let value = if with_values {
                    key.value.escape_ascii().to_string()
                } else {
                    format!("{} bytes", key.value.len())
                };
                [
                    key.key.escape_ascii().to_string(),
                    key.revision.to_string(),
                    maybe(key.lease),
                    value,
                ]
            })
            .collect();
        text.push_str(&table::render(["KEY", "REVISION", "LEASE", "VALUE"], &rows));
    }
    if found.damage.is_empty() {
        text.push_str("\neverything is whole\n");
    } else {
        text.push_str("\nDAMAGED\n");
    }
    for damage in &found.damage {
        let _ = writeln!(text, "  {}", table::one_line(&damage.to_string()));
    }
    text
}

fn render_topics(topics: &[TopicSummary]) -> String {
    let mut rows = Vec::new();
    for topic in topics {
        rows.push([
            topic.name.clone(),
            String::new(),
            topic.messages().to_string(),
            topic.bytes.to_string(),
            topic.file_bytes.to_string(),
            topic
                .partitions
                .iter()
                .map(|(first, end)| format!("{first}..{end}"))
                .collect::<Vec<_>>()
                .join(" "),
        ]);
        for group in &topic.groups {
            let cursors: Vec<_> = group.cursors.iter().map(u64::to_string).collect();
            rows.push([
                String::new(),
                group.name.clone(),
                format!("lag {}", group.lag),
                String::new(),
                String::new(),
                cursors.join(" "),
            ]);
        }
    }
    table::render(
        [
            "TOPIC",
            "GROUP",
            "MESSAGES",
            "BYTES",
            "IN FILES",
            "POSITIONS",
        ],
        &rows,
    )
}

fn as_json(found: &Inspection, with_values: bool) -> Value {
    let segments = found.segments.iter().map(|segment| {
        json!({
            "file": name(&segment.file), "first": segment.first, "last": segment.last,
            "records": segment.records, "used": segment.used, "bytes": segment.bytes,
            "whole": !found.damage.iter().any(|damage| damage.file == segment.file),
        })
    });
    let topics = found.bus.as_ref().map(|topics| {
        let topics = topics.iter().map(|topic| {
            let groups = topic.groups.iter().map(|group| {
                json!({ "name": group.name, "cursors": group.cursors, "lag": group.lag })
            });
            let partitions = topic.partitions.iter().map(|(first, end)| json!({ "first": first, "end": end }));
            json!({
                "name": topic.name, "messages": topic.messages(), "bytes": topic.bytes, "scheduled": topic.scheduled,
                "files": topic.files, "file_bytes": topic.file_bytes,
                "partitions": partitions.collect::<Value>(), "groups": groups.collect::<Value>(),
            })
        });
        json!({ "topics": topics.collect::<Value>(), "later_records": found.bus_records })
    });
    let keys = found.kv.shown.iter().map(|key| {
        let mut row = json!({
            "key": key.key.escape_ascii().to_string(), "revision": key.revision, "lease": key.lease,
            "value_bytes": key.value.len(),
        });
        if with_values {
            row["value"] = key.value.escape_ascii().to_string().into();
        }
        row
    });
    let files = found
        .kv
        .files
        .iter()
        .map(|(file, bytes)| json!({ "file": name(file), "bytes": bytes }));
    let damage = found.damage.iter().map(|damage| {
        json!({ "file": damage.file.display().to_string(), "offset": damage.offset, "what": damage.what })
    });
    json!({
        "folder": found.folder.display().to_string(),
        "format": found.format,
        "whole": found.damage.is_empty(),
        "damage": damage.collect::<Value>(),
        "log": { "segments": segments.collect::<Value>() },
        "kv": {
            "revision": found.kv.revision, "compacted": found.kv.compacted, "keys": found.kv.keys,
            "key_bytes": found.kv.key_bytes, "value_bytes": found.kv.value_bytes, "leases": found.kv.leases,
            "files": files.collect::<Value>(), "shown": keys.collect::<Value>(),
        },
        "bus": topics,
    })
}
