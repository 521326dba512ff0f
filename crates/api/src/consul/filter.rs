//! `filter=`: the part of Consul's expressions that its users need, over the answer as it is shown.
//!
//! `Service.Meta.env == "prod" and ("blue" in Service.Tags or not Checks is empty)`

use serde_json::Value;
use sinew_core::Result;

use super::reply;

const LENGTH: usize = 1024;
const DEPTH: usize = 16;

/// An expression.
#[derive(Debug)]
pub(super) enum Filter {
    /// All of these.
    All(Vec<Filter>),
    /// One of these.
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Is(Vec<String>, Test),
}

#[derive(Debug)]
pub(super) enum Test {
    Equals(String),
    Contains(String),
    Empty,
}

impl Filter {
    /// Reads an expression.
    ///
    /// InvalidArgument `consul.request_invalid`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let read = || {
            let mut reader = Reader {
                words: words(text)?,
                at: 0,
            };
            let filter = reader.any(0)?;
            (reader.at == reader.words.len()).then_some(filter)
        };
        let short = text.len() <= LENGTH;
        short.then(read).flatten().ok_or_else(|| {
            reply::invalid(
                "Failed to create boolean expression evaluator: only ==, !=, in, not in, contains, is empty, \
                 is not empty, and, or, not and parentheses are there",
            )
        })
    }

    /// Whether an entry of an answer is as asked for.
    pub(super) fn holds(&self, entry: &Value) -> bool {
        match self {
            Self::All(all) => all.iter().all(|filter| filter.holds(entry)),
            Self::Any(any) => any.iter().any(|filter| filter.holds(entry)),
            Self::Not(filter) => !filter.holds(entry),
            Self::Is(path, test) => {
                let found = find(entry, path);
                match test {
                    Test::Empty => found.is_none_or(is_empty),
                    Test::Equals(text) => found.is_some_and(|value| equals(value, text)),
                    Test::Contains(text) => found.is_some_and(|value| match value {
                        Value::Array(values) => values.iter().any(|value| equals(value, text)),
                        Value::Object(fields) => fields.contains_key(text),
                        Value::String(value) => value.contains(text),
                        _ => false,
                    }),
                }
            }
        }
    }
}

fn find<'a>(entry: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(entry, |value, name| {
        let fields = value.as_object()?;
        let same = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
        fields
            .get(name)
            .or_else(|| fields.iter().find(same).map(|(_, value)| value))
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn equals(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Number(value) => value.to_string() == text,
        Value::Bool(value) => value.to_string() == text,
        _ => false,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Plain(String),
    Quoted(String),
    Sign(&'static str),
}

fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let signs = ["==", "!=", "(", ")"];
        if let Some(sign) = signs.into_iter().find(|sign| rest.starts_with(sign)) {
            words.push(Word::Sign(sign));
            rest = &rest[sign.len()..];
        } else if matches!(first, '"' | '`') {
            let end = rest[1..].find(first)?;
            let quoted = &rest[1..=end];
            if first == '"' && quoted.contains('\\') {
                return None;
            }
            words.push(Word::Quoted(quoted.to_owned()));
            rest = &rest[end + 2..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "()=!\"`".contains(c));
            let end = end.unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            words.push(Word::Plain(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Some(words)
}

struct Reader {
    words: Vec<Word>,
    at: usize,
}

impl Reader {
    fn any(&mut self, depth: usize) -> Option<Filter> {
        let mut any = vec![self.all(depth)?];
        while self.takes("or") {
            any.push(self.all(depth)?);
        }
        Some(Filter::Any(any))
    }

    fn all(&mut self, depth: usize) -> Option<Filter> {
        let mut all = vec![self.one(depth)?];
        while self.takes("and") {
            all.push(self.one(depth)?);
        }
        Some(Filter::All(all))
    }

    fn one(&mut self, depth: usize) -> Option<Filter> {
        if depth > DEPTH {
            return None;
        }
        if self.takes("not") {
            return Some(Filter::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes_sign("(") {
            let filter = self.any(depth + 1)?;
            return self.takes_sign(")").then_some(filter);
        }
        let first = self.next()?;
        if self.takes("in") {
            return Some(contains(path(self.next()?)?, text(first)));
        }
        if self.takes("not") {
            self.takes("in").then_some(())?;
            return not(contains(path(self.next()?)?, text(first)));
        }
        let path = path(first)?;
        if self.takes_sign("==") {
            return Some(Filter::Is(path, Test::Equals(text(self.next()?))));
        }
        if self.takes_sign("!=") {
            return not(Filter::Is(path, Test::Equals(text(self.next()?))));
        }
        if self.takes("contains") {
            return Some(contains(path, text(self.next()?)));
        }
        if !self.takes("is") {
            return None;
        }
        let negated = self.takes("not");
        let empty = self
            .takes("empty")
            .then_some(Filter::Is(path, Test::Empty))?;
        if negated { not(empty) } else { Some(empty) }
    }

    fn next(&mut self) -> Option<Word> {
        let word = self.words.get(self.at).cloned()?;
        self.at += 1;
        (!matches!(word, Word::Sign(_))).then_some(word)
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let is = matches!(self.words.get(self.at), Some(Word::Plain(word)) if word == keyword);
        self.at += usize::from(is);
        is
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.words.get(self.at), Some(Word::Sign(word)) if *word == sign);
        self.at += usize::from(is);
        is
    }
}

fn not(filter: Filter) -> Option<Filter> {
    Some(Filter::Not(Box::new(filter)))
}

fn contains(path: Vec<String>, text: String) -> Filter {
    Filter::Is(path, Test::Contains(text))
}

fn path(word: Word) -> Option<Vec<String>> {
    match word {
        Word::Plain(path) => Some(path.split('.').map(str::to_owned).collect()),
        _ => None,
    }
}

fn text(word: Word) -> String {
    match word {
        Word::Plain(text) | Word::Quoted(text) => text,
        Word::Sign(sign) => sign.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions() {
        let entry = json!({
            "Service": {"Port": 80, "Tags": ["blue", "v1"], "Meta": {"env": "prod"}, "ID": "a"},
            "Checks": [],
        });
        for (text, holds) in [
            ("Service.Port == 80", true),
            ("Service.Port==80", true),
            ("Service.ID != \"b\"", true),
            ("Service.ID != a", false),
            (
                "Service.Meta.env == \"prod\" and \"blue\" in Service.Tags",
                true,
            ),
            ("service.meta.env == `test` or v1 in Service.Tags", true),
            ("\"green\" not in Service.Tags", true),
            ("Service.Tags contains green", false),
            ("not (Checks is empty or Service.Port == 80)", false),
            ("Checks is not empty", false),
            ("Service.Meta.zone is empty", true),
            ("Service.Nothing == x", false),
        ] {
            assert_eq!(Filter::parse(text).unwrap().holds(&entry), holds, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let deep = "(".repeat(500);
        let long = "a".repeat(2000);
        for bad in [
            "",
            "a",
            "a ==",
            "a == b c",
            "a matches b",
            "(a == b",
            "a = b",
            "\"a",
            &deep,
            &long,
        ] {
            let error = Filter::parse(bad).unwrap_err();
            assert_eq!(error.code(), "consul.request_invalid", "{bad}");
        }
    }
}
