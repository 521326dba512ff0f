//! As much of XML as S3's answers have: elements without attributes that matter, text, five entities.

use std::borrow::Cow;

/// The insides of all `<name>…</name>`, in order. S3 never nests an element in one of its own name.
pub(super) fn all<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (mut found, mut rest) = (Vec::new(), xml);
    while let Some((_, after)) = rest.split_once(&open) {
        let Some((inside, after)) = after.split_once(&close) else {
            break;
        };
        found.push(inside);
        rest = after;
    }
    found
}

/// The text of the first such element.
pub(super) fn text<'a>(xml: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let inside = all(xml, name).first().copied()?;
    if !inside.contains('&') {
        return Some(inside.into());
    }
    let mut text = inside.to_owned();
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        // Last: what it makes is no entity.
        ("&amp;", "&"),
    ] {
        text = text.replace(entity, character);
    }
    Some(text.into())
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found() {
        let xml = "<?xml version=\"1.0\"?><R xmlns=\"x\"><P><N>1</N><T>&quot;a&amp;lt;&quot;</T></P><P><N>2</N></P><E/></R>";
        let parts = all(xml, "P");
        assert_eq!(parts.len(), 2);
        assert_eq!(text(parts[0], "T").as_deref(), Some("\"a&lt;\""));
        assert_eq!(text(parts[1], "N").as_deref(), Some("2"));
        assert_eq!(text(xml, "E"), None);
        assert_eq!(all("<A>cut off", "A"), Vec::<&str>::new());
    }
}
