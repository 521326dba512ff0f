//! Contents from files and from the command line.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};
use sinew_core::{Error, Kind};
use sinew_node::model::{ConfigContent, ConfigFormat};

use super::{ItemArgs, is, usage};
use crate::client::Target;

/// A content from the command line.
#[derive(clap::Args)]
pub(super) struct ContentArgs {
    /// Settings to change, such as server.port=8080; KEY= sets an empty value, and KEY alone takes it out
    #[arg(value_name = "KEY=VALUE", conflicts_with = "file")]
    settings: Vec<String>,
    /// The whole content; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// text, json, yaml, toml or properties [default: as before, or by the ending of the file]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// A JSON schema that the content must fit; "" takes it away
    #[arg(long, value_name = "FILE")]
    schema: Option<String>,
}

impl ContentArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.file.is_none() && self.schema.is_none()
    }

    /// The body of a change, and the version that it is based on where it changes settings of one.
    pub(super) fn body(&self, target: &Target, item: &ItemArgs) -> Result<(Value, Option<u64>)> {
        let mut body = json!({});
        let mut based_on = None;
        let mut format = self.format.clone();
        if let Some(file) = &self.file {
            body["content"] = read(file)?.into();
            format = format.or_else(|| of_ending(file).map(str::to_owned));
        } else {
            if self.settings.is_empty() && self.schema.is_none() {
                return Err(usage(
                    "say what to write: KEY=VALUE, or --file FILE".to_owned(),
                ));
            }
            let current = current(target, item)?;
            let (content, before, version) = match &current {
                Some(current) => (
                    current.content.as_str(),
                    Some(current.format),
                    current
                        .item
                        .current
                        .as_ref()
                        .map_or(0, |version| version.version),
                ),
                None => ("", None, 0),
            };
            based_on = Some(version);
            let wanted = match (&format, before) {
                (Some(format), _) => format.clone(),
                (None, Some(before)) => name(before).to_owned(),
                (None, None) => "properties".to_owned(),
            };
            body["content"] = changed(content, &wanted, &self.settings)?.into();
            format = Some(wanted);
        }
        if let Some(format) = format {
            body["format"] = format.into();
        }
        if let Some(schema) = &self.schema {
            body["schema"] = match schema.as_str() {
                "" => Value::Null,
                file => serde_json::from_str(&read(Path::new(file))?)
                    .map_err(|error| usage(format!("{file} is not a JSON schema: {error}")))?,
            };
        }
        Ok((body, based_on))
    }
}

/// The content that is in force for everybody, if there is one.
pub(super) fn current(target: &Target, item: &ItemArgs) -> Result<Option<ConfigContent>> {
    match target.get(&item.path("")?) {
        Ok(content) => Ok(Some(content)),
        Err(error) if is(&error, "configs.item_unknown") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file, or standard input for `-`.
pub(super) fn read(file: &Path) -> Result<String> {
    let text = match file.as_os_str() == "-" {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(file),
    };
    text.map_err(|error| {
        let message = format!("{} cannot be read: {error}", file.display());
        Error::new(Kind::InvalidArgument, "config.unreadable", message).into()
    })
}

pub(super) fn name(format: ConfigFormat) -> &'static str {
    match format {
        ConfigFormat::Text => "text",
        ConfigFormat::Json => "json",
        ConfigFormat::Yaml => "yaml",
        ConfigFormat::Toml => "toml",
        ConfigFormat::Properties => "properties",
    }
}

fn of_ending(file: &Path) -> Option<&'static str> {
    match file.extension()?.to_str()? {
        "json" => Some("json"),
        "yaml" | "yml" => Some("yaml"),
        "toml" => Some("toml"),
        "properties" => Some("properties"),
        "txt" => Some("text"),
        _ => None,
    }
}

/// The content with settings changed, all else as it was.
fn changed(content: &str, format: &str, settings: &[String]) -> Result<String> {
    if settings.is_empty() {
        return Ok(content.to_owned());
    }
    match format {
        "properties" => {
            let mut lines: Vec<String> = content.lines().map(str::to_owned).collect();
            for setting in settings {
                set_line(&mut lines, setting);
            }
            Ok(lines.join("\n") + "\n")
        }
        "json" => {
            let mut value: Value = match content.trim() {
                "" => json!({}),
                content => serde_json::from_str(content)?,
            };
            for setting in settings {
                set_value(&mut value, setting)?;
            }
            Ok(serde_json::to_string_pretty(&value)? + "\n")
        }
        _ => Err(usage(format!(
            "single settings of {format} cannot be set without losing its comments and order: use \
             `sinew config edit`, or --file"
        ))),
    }
}

fn set_line(lines: &mut Vec<String>, setting: &str) {
    let (key, value) = match setting.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (setting, None),
    };
    let is_it = |line: &String| {
        let line = line.trim_start();
        let rest = line.strip_prefix(key).map(str::trim_start);
        !line.starts_with(['#', '!'])
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
    };
    let place = lines.iter().position(is_it);
    // A backslash at its end would draw in the next line.
    let new = value.map(|value| format!("{key}={}", value.replace('\\', "\\\\")));
    match (place, new) {
        (Some(place), Some(new)) => lines[place] = new,
        (Some(place), None) => drop(lines.remove(place)),
        (None, Some(new)) => lines.push(new),
        (None, None) => {}
    }
}

fn set_value(value: &mut Value, setting: &str) -> Result<()> {
    let (key, new) = match setting.split_once('=') {
        Some((key, text)) => {
            let new = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            (key, Some(new))
        }
        None => (setting, None),
    };
    let mut steps: Vec<&str> = key.split('.').collect();
    let last = steps.pop().unwrap_or_default();
    let mut table = value;
    for step in steps {
        let no_table = || usage(format!("{key:?} leads through what is no table"));
        let entries = table.as_object_mut().ok_or_else(no_table)?;
        table = entries.entry(step).or_insert_with(|| json!({}));
    }
    let no_table = || usage(format!("{key:?} leads through what is no table"));
    let entries = table.as_object_mut().ok_or_else(no_table)?;
    match new {
        Some(new) => drop(entries.insert(last.to_owned(), new)),
        None => drop(entries.remove(last)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(settings: &[&str]) -> Vec<String> {
        settings.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn settings_change_and_all_else_stays() {
        let before = "# why\na = 1\nab=2\nc: 3\n";
        let settings = texts(&["a=x\\y", "c", "d.e=4=5", "gone"]);
        let after = changed(before, "properties", &settings).unwrap();
        assert_eq!(after, "# why\na=x\\\\y\nab=2\nd.e=4=5\n");
        let json = r#"{"b": {"c": 1}, "a": 2}"#;
        let settings = texts(&["b.c=[1]", "a", "d.e=text", "f="]);
        let after: Value =
            serde_json::from_str(&changed(json, "json", &settings).unwrap()).unwrap();
        assert_eq!(after, json!({"b": {"c": [1]}, "d": {"e": "text"}, "f": ""}));
        assert!(changed(json, "json", &texts(&["a.b=1"])).is_err());
        assert!(changed("a: 1", "yaml", &texts(&["a=1"])).is_err());
    }
}
