//! Texts with variables, such as `/v2/{order}{rest}`, filled with what a route's path captured.

use regex::bytes::Regex;

use crate::pattern::{PathPattern, Segment, is_variable};

/// A text with variables, checked against the pattern whose captures it names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text(Box<[Piece]>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Fixed(Box<str>),
    /// The path's segment of this index.
    Segment(usize),
    /// What follows this many segments: nothing, or a slash and more.
    Rest(usize),
    /// A group of the route's expression.
    Group(Box<str>),
    Path,
    Host,
}

/// What the variables stand for.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) host: &'a str,
    /// Canonical.
    pub(crate) path: &'a str,
    /// Of a route whose path is an expression.
    pub(crate) regex: Option<&'a Regex>,
}

impl Text {
    /// Reads `text`, whose variables are captures of `pattern`, `{rest}`, `{path}` and `{host}`.
    pub(crate) fn parse(
        text: &str,
        pattern: &PathPattern,
        regex: Option<&Regex>,
    ) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                pieces.push(Piece::Fixed(rest[..open].into()));
            }
            let close = rest[open..]
                .find('}')
                .ok_or_else(|| format!("a `{{` of {text:?} has no `}}`"))?;
            pieces.push(variable(&rest[open + 1..open + close], pattern, regex)?);
            rest = &rest[open + close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Fixed(rest.into()));
        }
        let stray = |piece: &Piece| matches!(piece, Piece::Fixed(text) if text.contains('}'));
        if pieces.iter().any(stray) {
            return Err(format!("a `}}` of {text:?} has no `{{`"));
        }
        Ok(Self(pieces.into()))
    }

    /// Whether it names the host.
    pub(crate) fn names_host(&self) -> bool {
        self.0.contains(&Piece::Host)
    }

    /// Appends the text with values that a request might bring.
    pub(crate) fn render_sample(&self, to: &mut Vec<u8>) {
        for piece in &self.0 {
            to.extend_from_slice(match piece {
                Piece::Fixed(text) => text.as_bytes(),
                Piece::Segment(_) | Piece::Group(_) | Piece::Host => b"x",
                Piece::Rest(_) | Piece::Path => b"/x",
            });
        }
    }

    /// Appends the text with these values.
    pub(crate) fn render(&self, values: Values<'_>, to: &mut Vec<u8>) {
        let mut captures = None;
        for piece in &self.0 {
            match piece {
                Piece::Fixed(text) => to.extend_from_slice(text.as_bytes()),
                Piece::Segment(index) => {
                    let segment = values.path.split('/').nth(index + 1);
                    to.extend_from_slice(segment.unwrap_or_default().as_bytes());
                }
                Piece::Rest(segments) => to.extend_from_slice(after(values.path, *segments)),
                Piece::Path => to.extend_from_slice(values.path.as_bytes()),
                Piece::Host => to.extend_from_slice(values.host.as_bytes()),
                Piece::Group(name) => {
                    let path = values.path.as_bytes();
                    let captures = captures
                        .get_or_insert_with(|| values.regex.and_then(|regex| regex.captures(path)));
                    if let Some(group) = captures.as_ref().and_then(|found| found.name(name)) {
                        to.extend_from_slice(group.as_bytes());
                    }
                }
            }
        }
    }
}

fn variable(name: &str, pattern: &PathPattern, regex: Option<&Regex>) -> Result<Piece, String> {
    match name {
        "host" => return Ok(Piece::Host),
        "path" => return Ok(Piece::Path),
        "rest" if pattern.takes_rest() => return Ok(Piece::Rest(pattern.segments().count())),
        "rest" => return Err("{rest} is what `/**` takes, and the path has none".to_owned()),
        _ if !is_variable(name) => return Err(format!("{{{name}}} is no variable")),
        _ => {}
    }
    let mut segments = pattern.segments();
    if let Some(index) = segments.position(|segment| segment == Segment::Capture(name)) {
        return Ok(Piece::Segment(index));
    }
    let mut groups = regex.into_iter().flat_map(Regex::capture_names).flatten();
    if groups.any(|group| group == name) {
        return Ok(Piece::Group(name.into()));
    }
    Err(format!("the path captures no {{{name}}}"))
}

/// What follows the first segments of a path.
fn after(path: &str, segments: usize) -> &[u8] {
    let mut slashes = memchr::memchr_iter(b'/', path.as_bytes());
    let begin = slashes.nth(segments).unwrap_or(path.len());
    &path.as_bytes()[begin..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::compile;

    fn rendered(text: &str, pattern: &str, path: &str) -> Result<String, String> {
        let pattern = PathPattern::parse(pattern).unwrap();
        let regex = match &pattern {
            PathPattern::Regex(expression) => Some(compile(expression).unwrap()),
            _ => None,
        };
        let text = Text::parse(text, &pattern, regex.as_ref())?;
        let (host, regex) = ("shop.example", regex.as_ref());
        let mut to = Vec::new();
        text.render(Values { host, path, regex }, &mut to);
        Ok(String::from_utf8(to).unwrap())
    }

    #[test]
    fn variables_are_filled() {
        for (text, pattern, path, expected) in [
            (
                "/v2/{order}/of/{id}",
                "/u/{id}/o/{order}",
                "/u/7/o/x",
                "/v2/x/of/7",
            ),
            ("/v2{rest}", "/a/**", "/a/b/c/", "/v2/b/c/"),
            ("/v2{rest}", "/a/**", "/a", "/v2"),
            ("/{id}{rest}", "/a/{id}/**", "/a/7/x", "/7/x"),
            ("{rest}", "/**", "/x/y", "/x/y"),
            ("/{n}.jpg", r"~/img/(?P<n>\d+)", "/img/42", "/42.jpg"),
            (
                "https://{host}/new{path}",
                "/a",
                "/a",
                "https://shop.example/new/a",
            ),
        ] {
            assert_eq!(rendered(text, pattern, path).unwrap(), expected);
        }
        for (text, pattern) in [
            ("/{x}", "/a/{id}"),
            ("/{rest}", "/a/{id}"),
            ("/{", "/a"),
            ("/}", "/a"),
            ("/{}", "/a"),
            ("/{x}", r"~/(?P<n>\d+)"),
        ] {
            assert!(rendered(text, pattern, "/a").is_err(), "{text}");
        }
    }
}
