//! What a route does itself, instead of forwarding: a redirect or a fixed reply; and what it makes of
//! the path when it forwards.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    h1::{FieldKind, classify},
    path,
    pattern::PathPattern,
    route::Route,
    variables::{Text, Values},
};

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: a path, or an `http://` or `https://` URL. Variables are `{host}`, `{path}`,
    /// `{rest}` and the captures of the route's path. The query goes along, unless this has one.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    pub status: u16,
}

/// An answer that is always the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// The body; up to 64 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Its type; plain text in UTF-8 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// More header fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// The compiled form of both.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    /// The head's own lines.
    lines: Arc<[u8]>,
    body: Arc<[u8]>,
    location: Option<Location>,
}

#[derive(Debug)]
struct Location {
    text: Text,
    takes_query: bool,
}

const LONGEST_BODY: usize = 64 << 10;
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

fn permanent() -> u16 {
    308
}

impl Answer {
    pub(crate) fn reply(reply: &Reply) -> Result<Self, String> {
        let Reply {
            status,
            body,
            content_type,
            headers,
        } = reply;
        if !(200..=599).contains(status) {
            return Err(format!("reply.status is {status}; use 200 to 599"));
        }
        let has_body = !matches!(status, 204 | 205 | 304);
        if !has_body && !body.is_empty() {
            return Err(format!("a reply with status {status} has no body"));
        }
        if body.len() > LONGEST_BODY {
            return Err("reply.body is longer than 64KiB".to_owned());
        }
        let mut lines = Vec::new();
        if !body.is_empty() {
            let content_type = content_type.as_deref().unwrap_or(PLAIN_TEXT);
            push_line("content-type", content_type, &mut lines)?;
        } else if content_type.is_some() {
            return Err("reply.content_type stands without a body".to_owned());
        }
        for (name, value) in headers {
            match classify(name.as_bytes()) {
                FieldKind::Other | FieldKind::EndToEnd
                    if !name.eq_ignore_ascii_case("content-type") => {}
                _ => {
                    return Err(format!(
                        "reply.headers: the gateway itself says {name}, or nobody"
                    ));
                }
            }
            push_line(name, value, &mut lines)?;
        }
        Ok(Self {
            status: *status,
            lines: lines.into(),
            body: body.as_bytes().into(),
            location: None,
        })
    }

    pub(crate) fn redirect(
        redirect: &Redirect,
        pattern: &PathPattern,
        regex: Option<&regex::bytes::Regex>,
    ) -> Result<Self, String> {
        let Redirect { to, status } = redirect;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!(
                "redirect.status is {status}; use 301, 302, 303, 307 or 308"
            ));
        }
        if !to.bytes().all(|b| b.is_ascii_graphic()) || to.contains(['\\', '"', '<', '>']) {
            return Err("redirect.to has characters that no URL has; encode them".to_owned());
        }
        let text = Text::parse(to, pattern, regex)?;
        let url = to.strip_prefix("https://").or(to.strip_prefix("http://"));
        match url {
            Some(url) => check_authority(url)?,
            None if to.starts_with("{path}") => {}
            None if to.starts_with('/')
                && !["//", "/{path}", "/{rest}"]
                    .iter()
                    .any(|two| to.starts_with(two)) => {}
            None => {
                return Err("redirect.to begins with `http://`, `https://` or one slash".to_owned());
            }
        }
        let takes_query = !to.contains('?');
        let location = Some(Location { text, takes_query });
        Ok(Self {
            status: *status,
            lines: Arc::from([]),
            body: Arc::from([]),
            location,
        })
    }

    /// The answer to a request.
    pub(crate) fn fault(&self, values: Values<'_>, query: &str) -> Result<Fault, Fault> {
        let mut lines = self.lines.to_vec();
        if let Some(location) = &self.location {
            // Browsers take `https:///a` for `https://a`.
            if values.host.is_empty() && location.text.names_host() {
                return Err(Fault::path_refused("it names no host to redirect to"));
            }
            lines.extend_from_slice(b"location: ");
            let begin = lines.len();
            location.text.render(values, &mut lines);
            // A group of an expression may begin with a slash; `//` would name another host.
            if lines[begin..].starts_with(b"//") {
                return Err(Fault::path_refused("it would redirect to another host"));
            }
            if location.takes_query {
                lines.extend_from_slice(query.as_bytes());
            }
            lines.extend_from_slice(b"\r\n");
        }
        Ok(Fault::reply(self.status, lines, self.body.clone()))
    }
}

/// What clients choose must not choose which host they are sent to, but for the one they asked.
fn check_authority(url: &str) -> Result<(), String> {
    let ends = ["/", "?", "#", "{path}", "{rest}"];
    let end = ends.iter().filter_map(|end| url.find(end)).min();
    let authority = &url[..end.unwrap_or(url.len())];
    if authority.is_empty() {
        Err("redirect.to names no host".to_owned())
    } else if authority.replace("{host}", "").contains('{') {
        Err("only {host} may stand in the host of redirect.to".to_owned())
    } else {
        Ok(())
    }
}

fn push_line(name: &str, value: &str, to: &mut Vec<u8>) -> Result<(), String> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("{name:?} is no header's name"));
    }
    if !value.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
        return Err(format!(
            "the value of {name} has characters that no header has"
        ));
    }
    to.extend_from_slice(name.to_ascii_lowercase().as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value.trim().as_bytes());
    to.extend_from_slice(b"\r\n");
    Ok(())
}

/// A path made of the request's.
#[derive(Debug)]
pub(crate) struct Rewrite(Text);

impl Rewrite {
    pub(crate) fn compile(
        text: &str,
        pattern: &PathPattern,
        regex: Option<&regex::bytes::Regex>,
    ) -> Result<Self, String> {
        if text.contains(['?', '#']) {
            return Err("rewrite is a path; the query goes along as it is".to_owned());
        }
        let text = Text::parse(text, pattern, regex)?;
        if text.names_host() {
            return Err("rewrite is a path, and {host} is no part of one".to_owned());
        }
        // With plain values for its variables it must be a path that a request could have.
        let mut sample = Vec::new();
        text.render_sample(&mut sample);
        path::canonicalise(&sample, &mut Vec::new())
            .map_err(|refusal| format!("rewrite is no path: {}", refusal.why()))?;
        Ok(Self(text))
    }

    /// Appends the canonical new path. What captures bring together may be no path that a request
    /// could have; then it is refused as if it had come so.
    pub(crate) fn push(&self, values: Values<'_>, to: &mut Vec<u8>) -> Result<(), Fault> {
        let mut path = Vec::new();
        self.0.render(values, &mut path);
        path::canonicalise(&path, to).map_err(|refusal| Fault::path_refused(refusal.why()))
    }
}

/// Whether the route's path may lose `strip`.
pub(crate) fn check_strip_prefix(route: &Route, strip: &str) -> Result<(), &'static str> {
    if route.rewrite.is_some() {
        return Err("strip_prefix and rewrite exclude each other; `{rest}` in rewrite is the rest");
    }
    if !strip.starts_with('/') || strip.ends_with('/') {
        return Err("strip_prefix begins with a slash and does not end with one");
    }
    let fixed = match &route.path {
        PathPattern::Template(text) => text.split("/{").next().unwrap_or_default(),
        PathPattern::Regex(_) => {
            return Err("strip_prefix needs a path that is no expression; use rewrite");
        }
        path => path.fixed_beginning(),
    };
    match fixed.strip_prefix(strip) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(()),
        _ => Err("strip_prefix must be whole leading segments of the path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(path: &str, to: &str) -> Result<Answer, String> {
        let (to, status) = (to.to_owned(), 308);
        Answer::redirect(&Redirect { to, status }, &path.parse().unwrap(), None)
    }

    #[test]
    fn clients_do_not_choose_where_they_are_sent() {
        for (path, to) in [
            ("/a/**", "https://{host}/new{path}"),
            ("/a/**", "https://{host}{path}"),
            ("/a/**", "https://new.example{rest}"),
            ("/a/{id}", "/b/{id}?from=a"),
            ("/a", "{path}/"),
        ] {
            assert!(redirect(path, to).is_ok(), "{to}");
        }
        for (path, to) in [
            ("/a/{id}", "https://{id}/"),
            ("/a/{id}", "https://x.{id}"),
            ("/a/**", "/{path}"),
            ("/a/**", "//{path}"),
            ("/a/**", "{rest}"),
            ("/a", "ftp://x"),
            ("/a", "https:///x"),
            ("/a", "https://x/ y"),
            ("/a", "javascript:alert(1)"),
        ] {
            assert!(redirect(path, to).is_err(), "{to}");
        }
    }

    #[test]
    fn replies_and_rewrites_are_checked() {
        let reply = |toml: &str| Answer::reply(&toml::from_str(toml).unwrap()).map(drop);
        assert_eq!(reply("status = 204"), Ok(()));
        assert_eq!(
            reply("status = 503\nbody = \"x\"\nheaders = { retry-after = \"9\" }"),
            Ok(())
        );
        for bad in [
            "status = 100",
            "status = 204\nbody = \"x\"",
            "status = 200\nheaders = { content-length = \"1\" }",
            "status = 200\nheaders = { connection = \"close\" }",
            "status = 200\nheaders = { a = \"x\\r\\ny: z\" }",
            "status = 200\nheaders = { \"a b\" = \"x\" }",
            "status = 200\ncontent_type = \"text/html\"",
        ] {
            assert!(reply(bad).is_err(), "{bad}");
        }
        let rewrite = |text: &str| Rewrite::compile(text, &"/a/{id}/**".parse().unwrap(), None);
        assert!(rewrite("/b/{id}{rest}").is_ok());
        for bad in [
            "b",
            "/b/{id}/../c",
            "/b//c",
            "/b?x",
            "{host}",
            "/b/{rest}",
            "/%2f",
        ] {
            assert!(rewrite(bad).is_err(), "{bad}");
        }
    }
}
