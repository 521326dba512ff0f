//! What is different between two contents: setting by setting, and line by line.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{VersionContent, format};

/// Two versions beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The first; 0 for none.
    pub from: u64,
    /// The second.
    pub to: u64,
    /// The settings that differ, in order; none for text.
    pub changes: Vec<Change>,
    /// The lines that differ with those around them, each after `+`, `-` or a blank.
    pub lines: String,
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What happened.
    pub difference: Difference,
    /// Its name.
    pub name: String,
    /// What it was.
    pub from: Option<Value>,
    /// What it is.
    pub to: Option<Value>,
}

/// What can happen to a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another value.
    Changed,
}

/// Lines shown before and after those that differ.
const AROUND: usize = 2;
/// What is compared line by line; larger ones are shown as replaced.
const MOST_CELLS: usize = 4_000_000;

pub(super) fn compare(from: Option<&VersionContent>, to: &VersionContent) -> Comparison {
    let settings = |version: &VersionContent| {
        let value = version
            .version
            .format
            .parse(&version.content)
            .ok()
            .flatten();
        value.and_then(|value| format::flatten(&value).ok())
    };
    let (before, after) = (from.and_then(settings), settings(to));
    let changes = match (before, after) {
        (None, None) => Vec::new(),
        (before, after) => changes(&before.unwrap_or_default(), &after.unwrap_or_default()),
    };
    let before = from.map_or("", |version| version.content.as_str());
    Comparison {
        from: from.map_or(0, |version| version.version.version),
        to: to.version.version,
        changes,
        lines: lines(before, &to.content),
    }
}

fn changes(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<Change> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = names.into_iter().filter_map(|name| {
        let (from, to) = (before.get(name), after.get(name));
        let difference = match (from, to) {
            (Some(from), Some(to)) if from == to => return None,
            (Some(_), Some(_)) => Difference::Changed,
            (Some(_), None) => Difference::Removed,
            (None, _) => Difference::Added,
        };
        Some(Change {
            difference,
            name: name.clone(),
            from: from.cloned(),
            to: to.cloned(),
        })
    });
    changes.collect()
}

/// The longest common subsequence by the textbook's table, within what both begin and end with.
fn lines(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let rest = a.len().min(b.len()) - head;
    let pairs = a.iter().rev().zip(b.iter().rev());
    let tail = pairs.take(rest).take_while(|(a, b)| a == b).count();
    let (inner_a, inner_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut marked: Vec<(char, &str)> = a[..head].iter().map(|line| (' ', *line)).collect();
    marked.extend(marks(inner_a, inner_b));
    marked.extend(a[a.len() - tail..].iter().map(|line| (' ', *line)));
    shown(&marked)
}

fn marks<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<(char, &'a str)> {
    let removed = |lines: &[&'a str]| lines.iter().map(|line| ('-', *line)).collect::<Vec<_>>();
    let added = |lines: &[&'a str]| lines.iter().map(|line| ('+', *line)).collect::<Vec<_>>();
    if a.len().saturating_mul(b.len()) > MOST_CELLS {
        return [removed(a), added(b)].concat();
    }
    let width = b.len() + 1;
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = match a[i] == b[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut marked) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            marked.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            marked.push(('-', a[i]));
            i += 1;
        } else {
            marked.push(('+', b[j]));
            j += 1;
        }
    }
    marked.extend(removed(&a[i..]));
    marked.extend(added(&b[j..]));
    marked
}

fn shown(marked: &[(char, &str)]) -> String {
    let is_near = |at: usize| {
        let around = at.saturating_sub(AROUND)..(at + AROUND + 1).min(marked.len());
        marked[around].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut text = String::new();
    let mut was_near = true;
    for (at, (mark, line)) in marked.iter().enumerate() {
        let near = is_near(at);
        if near {
            text.push(*mark);
            text.push_str(line);
            text.push('\n');
        } else if was_near && !text.is_empty() {
            text.push_str("...\n");
        }
        was_near = near;
    }
    text.strip_suffix("...\n")
        .map(str::to_owned)
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_shown_with_those_around() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        let after = "a\nb\nC\nd\ne\nf\ng\nh\ni\nj\nk\n";
        assert_eq!(
            lines(before, after),
            " a\n b\n-c\n+C\n d\n e\n...\n i\n j\n+k\n"
        );
        assert_eq!(lines(before, before), "");
        assert_eq!(lines("", "x\n"), "+x\n");
        let large = |prefix: &str| {
            (0..3000)
                .map(|n| format!("{prefix}{n}\n"))
                .collect::<String>()
        };
        assert_eq!(lines(&large("a"), &large("b")).lines().count(), 6000);
    }

    proptest! {
        #[test]
        fn what_is_marked_makes_the_one_from_the_other(a in prop::collection::vec("[ab]", 0..12), b in prop::collection::vec("[ab]", 0..12)) {
            let a: Vec<&str> = a.iter().map(String::as_str).collect();
            let b: Vec<&str> = b.iter().map(String::as_str).collect();
            let marked = marks(&a, &b);
            let only = |but: char| marked.iter().filter(|(mark, _)| *mark != but).map(|(_, line)| *line).collect::<Vec<_>>();
            prop_assert_eq!(only('+'), a);
            prop_assert_eq!(only('-'), b);
        }
    }
}
