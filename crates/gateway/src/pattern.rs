//! Which paths a route takes: one path, a subtree, a template with captures, or a regular expression.

use std::{fmt, str::FromStr};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Result};

use crate::path;

/// Which paths a route takes. Fixed parts are always in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// This path (without a slash at the end) and everything below it, on a segment boundary.
    /// Empty takes every path.
    Prefix(String),
    /// Segments of which at least one is a capture: `/users/{id}/orders`, perhaps with `/**`.
    Template(String),
    /// A regular expression for the whole path, without the `~` before it.
    Regex(String),
}

/// One segment of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    Fixed(&'a str),
    /// Takes any one segment that is not empty.
    Capture(&'a str),
}

/// The memory that one compiled expression may take.
const MOST_REGEX_BYTES: usize = 1 << 20;
/// The longest expression, in bytes.
const LONGEST_REGEX: usize = 1_024;
/// Segments of a template; bounds how deep a lookup goes.
const MOST_SEGMENTS: usize = 64;

/// Variables that mean something else than a capture.
pub(crate) const RESERVED: [&str; 3] = ["host", "path", "rest"];

impl PathPattern {
    /// Reads `/a`, `/a/**`, `/a/{b}/c`, `/a/{b}/**` or `~/a/\d+`; `gateway.route_invalid`
    /// (InvalidArgument) when it could never match a canonical path.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(
                Kind::InvalidArgument,
                "gateway.route_invalid",
                format!("{text:?} is not a route's path: {why}"),
            )
        };
        if let Some(expression) = text.strip_prefix('~') {
            if !expression.starts_with('/') {
                return Err(invalid(
                    "an expression begins with a slash after the `~`, as paths do",
                ));
            }
            compile(expression).map_err(|why| invalid(&why))?;
            return Ok(Self::Regex(expression.to_owned()));
        }
        let (fixed, prefix) = match text.strip_suffix("/**") {
            Some(fixed) => (fixed, true),
            None => (text, false),
        };
        if fixed.contains('*') {
            return Err(invalid("`**` may stand at the end alone, after a slash"));
        }
        if fixed.contains('?') {
            return Err(invalid("it matches paths, not queries"));
        }
        if fixed.contains(['{', '}']) {
            return template(fixed, prefix).map_err(|why| invalid(&why));
        }
        let mut canonical = Vec::new();
        if !(prefix && fixed.is_empty()) {
            path::canonicalise(fixed.as_bytes(), &mut canonical)
                .map_err(|refusal| invalid(refusal.why()))?;
        }
        if prefix && canonical.ends_with(b"/") {
            return Err(invalid("a slash stands twice before `**`"));
        }
        let canonical = String::from_utf8(canonical).expect("canonical paths are ASCII");
        Ok(if prefix {
            Self::Prefix(canonical)
        } else {
            Self::Exact(canonical)
        })
    }

    /// The segments from the left; none for an expression.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let text = match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Template(text) => text.strip_suffix("/**").unwrap_or(text),
            Self::Regex(_) => "",
        };
        let captures = matches!(self, Self::Template(_));
        let segments = (!text.is_empty()).then(|| text[1..].split('/'));
        segments.into_iter().flatten().map(move |segment| {
            match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(name) if captures => Segment::Capture(name),
                _ => Segment::Fixed(segment),
            }
        })
    }

    /// Whether it takes everything below as well.
    pub(crate) fn takes_rest(&self) -> bool {
        match self {
            Self::Prefix(_) => true,
            Self::Template(text) => text.ends_with("/**"),
            Self::Exact(_) | Self::Regex(_) => false,
        }
    }

    /// What every path that it takes begins with, as far as that is easily told.
    pub(crate) fn fixed_beginning(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Template(text) => text.split('{').next().unwrap_or_default(),
            Self::Regex(expression) => regex_beginning(expression),
        }
    }
}

fn template(fixed: &str, rest: bool) -> std::result::Result<PathPattern, String> {
    let Some(segments) = fixed.strip_prefix('/') else {
        return Err("a path begins with a slash".to_owned());
    };
    let mut canonical = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let count = segments.split('/').count();
    if count > MOST_SEGMENTS {
        return Err(format!("it has more than {MOST_SEGMENTS} segments"));
    }
    for (index, segment) in segments.split('/').enumerate() {
        let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        match name {
            Some(name) if is_variable(name) => {
                if RESERVED.contains(&name) {
                    return Err(format!(
                        "{{{name}}} means something else in `rewrite`; call the capture otherwise"
                    ));
                }
                if names.contains(&name) {
                    return Err(format!("two captures are called {{{name}}}"));
                }
                names.push(name);
                canonical.extend_from_slice(format!("/{{{name}}}").as_bytes());
            }
            Some(_) => {
                return Err("a capture's name is made of a-z, 0-9 and _".to_owned());
            }
            None if segment.contains(['{', '}']) => {
                return Err("a capture takes a whole segment, as in /users/{id}".to_owned());
            }
            // Only the last segment may be empty: then the path ends with a slash.
            None if segment.is_empty() && (index + 1 < count || rest) => {
                return Err(path::Refusal::EmptySegment.why().to_owned());
            }
            None => path::canonicalise(format!("/{segment}").as_bytes(), &mut canonical)
                .map_err(|refusal| refusal.why().to_owned())?,
        }
    }
    let mut canonical = String::from_utf8(canonical).expect("canonical paths are ASCII");
    if rest {
        canonical.push_str("/**");
    }
    Ok(PathPattern::Template(canonical))
}

/// Whether it can stand between braces.
pub(crate) fn is_variable(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The whole-text form of an expression, as it is compiled.
pub(crate) fn anchored(expression: &str) -> String {
    format!("^(?:{expression})$")
}

/// Compiles an expression for a whole text, in ASCII and within bounds. The engine takes linear
/// time, whatever the expression and the text.
pub(crate) fn compile(expression: &str) -> std::result::Result<Regex, String> {
    if expression.len() > LONGEST_REGEX {
        return Err(format!("an expression has at most {LONGEST_REGEX} bytes"));
    }
    // On its own first: `a)(b` would be one in the anchored form.
    let build = |text: &str| {
        RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MOST_REGEX_BYTES)
            .dfa_size_limit(MOST_REGEX_BYTES)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    "the expression is too large; repeat less often".to_owned()
                }
                error => error.to_string().replace('\n', " "),
            })
    };
    build(expression)?;
    build(&anchored(expression))
}

/// The characters that an expression surely begins with.
fn regex_beginning(expression: &str) -> &str {
    // An alternative may begin in another way; one within a group would do, but is not looked for.
    if expression.contains('|') {
        return "";
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'~');
    let bytes = expression.as_bytes();
    let mut length = bytes.iter().take_while(|b| plain(b)).count();
    // What may be absent is no beginning.
    if matches!(bytes.get(length), Some(b'?' | b'*' | b'{')) {
        length = length.saturating_sub(1);
    }
    &expression[..length]
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) | Self::Template(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/**"),
            Self::Regex(expression) => write!(f, "~{expression}"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_canonical() {
        let parse = |text| PathPattern::parse(text).map(|pattern| pattern.to_string());
        for (text, canonical) in [
            ("/**", "/**"),
            ("/%61b", "/ab"),
            ("/%61/{id}/", "/a/{id}/"),
            ("/{a}/%7b/{b_2}/**", "/{a}/%7B/{b_2}/**"),
            (r"~/a/\d+", r"~/a/\d+"),
        ] {
            assert_eq!(parse(text).unwrap(), canonical);
        }
        for bad in [
            "",
            "a",
            "a/**",
            "/a/*",
            "/a/**/b",
            "/a/../b",
            "/a?b",
            "/a//b",
            "//**",
            "/%2f",
            "{a}",
            "/x{a}",
            "/{a",
            "/{A}",
            "/{}",
            "/{a}/{a}",
            "/{a}//b",
            "/{a}//**",
            "/{a}/..",
            "/{rest}",
            "~a",
            "~",
            "~/(",
            "~/a)(b",
            "~/(((a{99}){99}){99}){99}",
            "~/(?=a)",
        ] {
            assert_eq!(
                parse(bad).unwrap_err().code(),
                "gateway.route_invalid",
                "{bad}"
            );
        }
    }

    #[test]
    fn expressions_take_whole_texts_and_tell_their_beginning() {
        let regex = compile("/a|/b").unwrap();
        assert!(regex.is_match(b"/b") && !regex.is_match(b"/bc") && !regex.is_match(b"x/b"));
        for (expression, beginning) in [
            (r"/img/\d+", "/img/"),
            ("/ab?", "/a"),
            ("/ab+", "/ab"),
            ("/ab{0,2}", "/a"),
            ("/a|/b", ""),
            ("/(?i)a", "/"),
        ] {
            assert_eq!(regex_beginning(expression), beginning, "{expression}");
        }
    }
}
