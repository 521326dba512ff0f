//! What is decided about an item, without store or clock: [`step`] takes what is stored of it and a command,
//! and answers what is to be stored.

use bytes::Bytes;
use sinew_core::{Result, Timestamp};

use super::{
    Action, By, Config, Format, Gray, ItemId, Rule, Version, error,
    model::{Head, Stored},
};

/// What is wanted. Contents were checked before.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// A new version for everybody.
    Put(Body),
    /// A new version for those that the rule names. One that is in gray release already gives way to it.
    Gray(Body, Rule),
    /// Others see the version in gray release.
    Widen(Rule),
    /// The version in gray release is in force for everybody.
    Promote,
    /// Nobody sees the version in gray release any more.
    Abort,
    /// The item is gone, but not its history.
    Delete,
}

/// A content with all that is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Body {
    pub(super) content: Bytes,
    pub(super) format: Format,
    pub(super) schema: Option<String>,
    pub(super) restores: Option<u64>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// Make this the head, and forget these versions.
    Store {
        stored: Box<Stored>,
        /// A new version for the history, with its content.
        made: Option<Bytes>,
        forget: Vec<u64>,
        action: Action,
        /// What the change is about.
        version: Version,
    },
    /// It is as it was asked to be.
    Nothing(Version),
}

/// Decides about a command when `stored` is what there is of the item.
pub(super) fn step(
    id: &ItemId,
    stored: Option<&Stored>,
    command: &Command,
    by: &By,
    now: Timestamp,
    config: &Config,
) -> Result<Decision> {
    let nothing = Stored::default();
    let stored = stored.unwrap_or(&nothing);
    let head = &stored.head;
    if let Some(expected) = by.expected
        && expected != head.number()
    {
        return Err(error::changed_meanwhile(id, expected, head.number()));
    }
    let mut next = stored.clone();
    let describe = |body: &Body| Version {
        version: head.newest + 1,
        time: now,
        author: by.author.clone(),
        note: by.note.clone(),
        restores: body.restores,
        is_gray: false,
        is_deletion: false,
        format: body.format,
        schema: body.schema.clone(),
        bytes: body.content.len(),
        hash: crate::documents::hash(&body.content),
    };
    let absent = || error::gray_absent(id);
    let (action, version, made) = match command {
        Command::Put(body) => {
            refuse_gray(id, head)?;
            let version = describe(body);
            if let Some(current) = head.in_force()
                && is_same(current, &version)
            {
                return Ok(Decision::Nothing(current.clone()));
            }
            next.head.current = Some(version.clone());
            next.current = body.content.clone();
            let action = match body.restores {
                Some(_) => Action::RollBack,
                None => Action::Put,
            };
            (action, version, Some(body.content.clone()))
        }
        Command::Gray(body, rule) => {
            rule.check()?;
            let version = Version {
                is_gray: true,
                ..describe(body)
            };
            next.head.gray = Some(Gray {
                version: version.clone(),
                rule: rule.clone(),
            });
            next.gray = body.content.clone();
            (Action::Gray, version, Some(body.content.clone()))
        }
        Command::Widen(rule) => {
            rule.check()?;
            let gray = next.head.gray.as_mut().ok_or_else(absent)?;
            if gray.rule == *rule {
                return Ok(Decision::Nothing(gray.version.clone()));
            }
            gray.rule = rule.clone();
            (Action::Widen, gray.version.clone(), None)
        }
        Command::Promote => {
            let gray = next.head.gray.take().ok_or_else(absent)?;
            next.head.current = Some(gray.version.clone());
            next.current = std::mem::take(&mut next.gray);
            (Action::Promote, gray.version, None)
        }
        Command::Abort => {
            let gray = next.head.gray.take().ok_or_else(absent)?;
            next.gray = Bytes::new();
            (Action::Abort, gray.version, None)
        }
        Command::Delete => {
            refuse_gray(id, head)?;
            if head.in_force().is_none() {
                return Err(error::unknown(id));
            }
            let version = Version {
                is_deletion: true,
                ..describe(&Body::default())
            };
            next.head.current = Some(version.clone());
            next.current = Bytes::new();
            (Action::Delete, version, Some(Bytes::new()))
        }
    };
    if made.is_some() {
        next.head.newest = version.version;
        next.head.kept.push((version.version, version.bytes));
    }
    let forget = forget(&mut next.head, config);
    Ok(Decision::Store {
        stored: Box::new(next),
        made,
        forget,
        action,
        version,
    })
}

fn refuse_gray(id: &ItemId, head: &Head) -> Result<()> {
    match &head.gray {
        Some(gray) => Err(error::gray_running(id, gray.version.version)),
        None => Ok(()),
    }
}

fn is_same(current: &Version, new: &Version) -> bool {
    (&current.hash, current.format, &current.schema) == (&new.hash, new.format, &new.schema)
}

/// The oldest go, as long as there are too many. What is in force, in gray release, and the newest beside
/// those stay.
fn forget(head: &mut Head, config: &Config) -> Vec<u64> {
    let of = |version: Option<&Version>| version.map_or(0, |version| version.version);
    let needed = [
        of(head.current.as_ref()),
        of(head.gray.as_ref().map(|gray| &gray.version)),
    ];
    let mut newest_first = head.kept.iter().rev().map(|(number, _)| *number);
    let spare = newest_first.find(|number| !needed.contains(number));
    let stays = |number: u64| needed.contains(&number) || Some(number) == spare;
    let mut count = head.kept.len();
    let mut bytes: usize = head.kept.iter().map(|(_, bytes)| bytes).sum();
    let mut gone = Vec::new();
    head.kept.retain(|(number, length)| {
        let is_too_much = count > config.versions.max(2) || bytes > config.history_bytes;
        // So many that one commit takes them; the rest goes with the next change.
        let goes = is_too_much && !stays(*number) && gone.len() < 32;
        if goes {
            count -= 1;
            bytes -= length;
            gone.push(*number);
        }
        !goes
    });
    gone
}

#[cfg(test)]
mod tests;
