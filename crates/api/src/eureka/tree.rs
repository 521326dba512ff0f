//! How Eureka's documents are read: JSON as it is, XML as the JSON that says the same.

use quick_xml::{Reader, events::Event};
use serde_json::{Map, Value};

/// No document of Eureka's is deeper than five.
const DEEPEST: usize = 16;
const MOST_ATTRIBUTES: usize = 16;

/// Reads JSON or XML, whichever it is. The error says what is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    match bytes.trim_ascii_start().first() {
        Some(b'<') => read_xml(bytes),
        Some(_) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        None => Err("it is empty".to_owned()),
    }
}

/// An element that is not closed yet.
struct Open {
    name: String,
    members: Map<String, Value>,
    text: String,
}

impl Open {
    fn close(mut self) -> (String, Value) {
        if self.members.is_empty() {
            return (self.name, Value::String(self.text));
        }
        let text = self.text.trim();
        if !text.is_empty() {
            self.members.insert("$".to_owned(), text.into());
        }
        (self.name, Value::Object(self.members))
    }
}

/// `<a x="1"><b>2</b></a>` is `{"a": {"@x": "1", "b": "2"}}`; text beside attributes is `$`; elements of
/// the same name are a list.
fn read_xml(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader::from_reader(bytes);
    let mut open: Vec<Open> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        match event {
            Event::Start(_) if open.len() >= DEEPEST => {
                return Err(format!("elements are nested more than {DEEPEST} deep"));
            }
            Event::Start(element) => open.push(begin(&element)?),
            Event::Empty(element) => {
                if let Some(root) = end(begin(&element)?, &mut open) {
                    return Ok(root);
                }
            }
            Event::End(_) => {
                let element = open.pop().ok_or("an element is closed that is not open")?;
                if let Some(root) = end(element, &mut open) {
                    return Ok(root);
                }
            }
            Event::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text += &text.xml10_content().map_err(|error| error.to_string())?;
                }
            }
            Event::CData(text) => {
                if let Some(element) = open.last_mut() {
                    element.text += &text.decode().map_err(|error| error.to_string())?;
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().map_err(|error| error.to_string())?;
                let character = reference
                    .resolve_char_ref()
                    .map_err(|error| error.to_string())?;
                let character = character.or(match &*name {
                    "lt" => Some('<'),
                    "gt" => Some('>'),
                    "amp" => Some('&'),
                    "apos" => Some('\''),
                    "quot" => Some('"'),
                    _ => None,
                });
                let character = character.ok_or_else(|| format!("&{name}; is not known"))?;
                if let Some(element) = open.last_mut() {
                    element.text.push(character);
                }
            }
            // Entities of its own are what makes XML dangerous.
            Event::DocType(_) => return Err("a document type is not allowed".to_owned()),
            Event::Eof => return Err("it ends too early".to_owned()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
}

fn begin(element: &quick_xml::events::BytesStart<'_>) -> Result<Open, String> {
    let name =
        std::str::from_utf8(element.name().into_inner()).map_err(|error| error.to_string())?;
    let mut members = Map::new();
    for (at, attribute) in element.attributes().enumerate() {
        // Each is compared with all before it.
        if at == MOST_ATTRIBUTES {
            return Err(format!(
                "an element has more than {MOST_ATTRIBUTES} attributes"
            ));
        }
        let attribute = attribute.map_err(|error| error.to_string())?;
        let key =
            std::str::from_utf8(attribute.key.into_inner()).map_err(|error| error.to_string())?;
        let value = attribute
            .unescape_value()
            .map_err(|error| error.to_string())?;
        members.insert(format!("@{key}"), value.as_ref().into());
    }
    Ok(Open {
        name: key_of(name),
        members,
        text: String::new(),
    })
}

/// Puts the element into the one around it; the root, when there is none.
fn end(element: Open, open: &mut [Open]) -> Option<Value> {
    let (name, value) = element.close();
    let Some(around) = open.last_mut() else {
        return Some(Value::Object(Map::from_iter([(name, value)])));
    };
    match around.members.get_mut(&name) {
        None => drop(around.members.insert(name, value)),
        Some(Value::Array(list)) => list.push(value),
        Some(other) => *other = Value::Array(vec![other.take(), value]),
    }
    None
}

/// What the name of an element stands for: XStream writes `__` for an underscore, `_-` for a dollar and
/// `_.` with four hexadecimal digits for what no name can hold.
fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('_') {
        key.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = rest
            .get(2..6)
            .and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let unit = unit.and_then(|unit| char::from_u32(unit.into()));
        let (character, length) = match (rest.as_bytes().get(1), unit) {
            (Some(b'_'), _) => ('_', 2),
            (Some(b'-'), _) => ('$', 2),
            (Some(b'.'), Some(character)) => (character, 6),
            _ => ('_', 1),
        };
        key.push(character);
        rest = &rest[length..];
    }
    key + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn xml_is_the_json_that_says_the_same() {
        let xml = br#"<?xml version="1.0"?>
            <instance>
              <app>A&amp;B&#x41;<![CDATA[<]]></app>
              <port enabled="true">8080</port>
              <dataCenterInfo class="c"><name>MyOwn</name></dataCenterInfo>
              <metadata class="java.util.Collections$EmptyMap"/>
              <homePageUrl/>
              <x>1</x><x>2</x><x>3</x>
              <versions__delta>1</versions__delta><a_.0020b>2</a_.0020b><c_d>3</c_d><e_-f>4</e_-f>
            </instance>"#;
        assert_eq!(
            read(xml).unwrap(),
            json!({"instance": {
                "app": "A&BA<",
                "port": {"@enabled": "true", "$": "8080"},
                "dataCenterInfo": {"@class": "c", "name": "MyOwn"},
                "metadata": {"@class": "java.util.Collections$EmptyMap"},
                "homePageUrl": "",
                "x": ["1", "2", "3"],
                "versions_delta": "1", "a b": "2", "c_d": "3", "e$f": "4",
            }})
        );
        assert_eq!(read(b" {\"a\": 1}").unwrap(), json!({"a": 1}));
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = "<a>".repeat(DEEPEST + 1);
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>"#;
        for bad in [
            "",
            "  ",
            "{",
            "<",
            "<a",
            "<a>",
            "<a></b>",
            "</a>",
            "<a>&b;</a>",
            "<a x=1/>",
            bomb,
            &deep,
            "<a>&#xd800;</a>",
            "<\u{e4}_.",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        let attributes = |count| (0..count).map(|n| format!(" a{n}='1'")).collect::<String>();
        for (count, good) in [(MOST_ATTRIBUTES, true), (MOST_ATTRIBUTES + 1, false)] {
            let read = read(format!("<a{}/>", attributes(count)).as_bytes());
            assert_eq!(read.is_ok(), good);
        }
        assert!(read(b"<a>\xff</a>").is_err());
        assert!(read(b"<\xff/>").is_err());
    }
}
