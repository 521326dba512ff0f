//! A route as the data plane uses it: everything that its text says, checked and made ready once.

use std::{cmp::Reverse, sync::Arc};

use regex::bytes::Regex;

use crate::{
    action::{Answer, Rewrite, check_strip_prefix},
    backend::Backends,
    host,
    matcher::Conditions,
    pattern::{self, PathPattern, Segment},
    route::Route,
};

#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) route: Arc<Route>,
    /// What metrics and logs call it.
    pub(crate) label: Box<str>,
    pub(crate) host: HostPattern,
    pub(crate) conditions: Option<Box<Conditions>>,
    /// Of a path that is an expression.
    pub(crate) regex: Option<Regex>,
    pub(crate) rewrite: Option<Rewrite>,
    /// Of a route that forwards.
    pub(crate) backends: Option<Backends>,
    /// Of a route that does not.
    pub(crate) answer: Option<Answer>,
    pub(crate) precedence: Precedence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    Exact(Box<str>),
    /// Every name that ends with a dot and this.
    Below(Box<str>),
    Any,
}

/// Of two routes that take a request the one with the smaller precedence gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence {
    /// Priority (32 bits), host (16), as much of the path as fits (63) and, if that is all of it, the
    /// number of conditions (16); the last bit is set when it is. Sorting ten thousand routes mostly
    /// looks at nothing else.
    pub(crate) digest: u128,
    path: Box<[u8]>,
    conditions: Reverse<usize>,
}

/// Segments, or what stands for one, that fit into a digest, in 3 bits each.
const DIGESTED: usize = 21;

// What stands in the path's part of a precedence, segment by segment.
const FIXED: u8 = 0;
const CAPTURE: u8 = 1;
const END: u8 = 2;
const REST: u8 = 3;
const EXPRESSION: u8 = 4;

impl Compiled {
    /// What is wrong with the route goes to `faults`.
    pub(crate) fn new(route: Arc<Route>, faults: &mut Vec<String>) -> Option<Self> {
        let before = faults.len();
        let host = match route.host.as_deref() {
            None => Some(HostPattern::Any),
            Some(text) => {
                let host = HostPattern::parse(text);
                if host.is_none() {
                    faults.push(format!("{text:?} is not a host"));
                }
                host
            }
        };
        let mut keep = |outcome: Result<(), String>| outcome.unwrap_or_else(|why| faults.push(why));
        let mut regex = None;
        if let PathPattern::Regex(expression) = &route.path {
            keep(pattern::compile(expression).map(|built| regex = Some(built)));
        }
        if let Some(strip) = &route.strip_prefix {
            keep(check_strip_prefix(&route, strip).map_err(str::to_owned));
        }
        let mut rewrite = None;
        if let Some(text) = &route.rewrite {
            let compiled = Rewrite::compile(text, &route.path, regex.as_ref());
            keep(compiled.map(|compiled| rewrite = Some(compiled)));
        }
        let mut answer = None;
        if let Some(redirect) = &route.redirect {
            let compiled = Answer::redirect(redirect, &route.path, regex.as_ref());
            keep(compiled.map(|compiled| answer = Some(compiled)));
        }
        if let Some(reply) = &route.reply {
            keep(Answer::reply(reply).map(|compiled| answer = Some(compiled)));
        }
        keep(check_action(&route).map_err(str::to_owned));
        if let Some(mirror) = &route.mirror {
            keep(mirror.check().map_err(str::to_owned));
        }
        let conditions = Conditions::compile(&route, faults);
        let backends = Backends::compile(&route, faults);
        if faults.len() > before {
            return None;
        }
        let host = host?;
        let count = conditions
            .as_ref()
            .map_or(0, |conditions| conditions.count());
        Some(Self {
            label: route.label().into(),
            precedence: Precedence::new(&route, &host, count),
            route,
            host,
            conditions,
            regex,
            rewrite,
            backends,
            answer,
        })
    }

    /// Whether some request might be taken by both, which are of one precedence and, unless their
    /// paths are expressions, of one host and path.
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        if let (PathPattern::Regex(_), PathPattern::Regex(_)) =
            (&self.route.path, &other.route.path)
        {
            let (one, two) = (
                self.route.path.fixed_beginning(),
                other.route.path.fixed_beginning(),
            );
            if !one.starts_with(two) && !two.starts_with(one) {
                return false;
            }
        }
        match (&self.conditions, &other.conditions) {
            (Some(one), Some(other)) => !one.exclude(other),
            _ => true,
        }
    }
}

impl HostPattern {
    fn parse(text: &str) -> Option<Self> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let authority = host::parse(name.as_bytes())?;
        if authority.port.is_some() || (below && name.starts_with('[')) {
            return None;
        }
        let name = authority.host.to_ascii_lowercase().into();
        Some(if below {
            Self::Below(name)
        } else {
            Self::Exact(name)
        })
    }
}

impl Precedence {
    fn new(route: &Route, host: &HostPattern, conditions: usize) -> Self {
        // Exact, below a name (longer names first), any.
        let host: u16 = match host {
            HostPattern::Exact(_) => 0,
            HostPattern::Below(name) => 0x200 - name.split('.').count().min(0x100) as u16,
            HostPattern::Any => 0x400,
        };
        let path: Vec<u8> = match &route.path {
            PathPattern::Regex(_) => {
                // A longer fixed beginning first.
                let length = route.path.fixed_beginning().len().min(254) as u8;
                let rest = u8::MAX - length;
                vec![EXPRESSION, rest >> 6, rest >> 3 & 7, rest & 7]
            }
            path => {
                let segments = path.segments().map(|segment| match segment {
                    Segment::Fixed(_) => FIXED,
                    Segment::Capture(_) => CAPTURE,
                });
                let last = if path.takes_rest() { REST } else { END };
                segments.chain([last]).collect()
            }
        };
        // From the lowest number, which no i32 is below, and upside down.
        let priority = u128::from(i32::MAX.abs_diff(route.priority));
        let mut digest = priority << 96 | u128::from(host) << 80;
        for (index, part) in path.iter().take(DIGESTED).enumerate() {
            digest |= u128::from(*part) << (77 - 3 * index);
        }
        if path.len() <= DIGESTED {
            let conditions = u16::MAX - conditions.min(usize::from(u16::MAX)) as u16;
            digest |= u128::from(conditions) << 1 | 1;
        }
        Self {
            digest,
            path: path.into(),
            conditions: Reverse(conditions),
        }
    }

    /// Whether routes with this digest have the same precedence.
    pub(crate) fn is_whole(digest: u128) -> bool {
        digest & 1 == 1
    }
}

fn check_action(route: &Route) -> Result<(), &'static str> {
    let actions = [
        route.service.is_some(),
        !route.backends.is_empty(),
        route.redirect.is_some(),
        route.reply.is_some(),
    ];
    if actions.iter().filter(|there| **there).count() != 1 {
        return Err("a route has one of `service`, `backends`, `redirect` and `reply`");
    }
    let forwards = actions[0] || actions[1];
    if !forwards
        && (route.rewrite.is_some() || route.strip_prefix.is_some() || route.mirror.is_some())
    {
        return Err("rewrite, strip_prefix and mirror are for routes that forward");
    }
    Ok(())
}
