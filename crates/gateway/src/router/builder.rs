//! Builds the lookup structure, and finds the routes between which it could not choose.

use std::{cmp::Ordering, sync::Arc};

use hashbrown::HashTable;
use regex::bytes::RegexSetBuilder;

use super::table::{Candidate, Entry, Expressions, List, NONE, Node, Root, Table, beginning, hash};
use crate::{
    compiled::{Compiled, HostPattern, Precedence},
    pattern::{PathPattern, Segment, anchored},
};

/// Routes of one host and path, and expressions of one host: a lookup may ask all of them.
const MOST_ALIKE: usize = 1_000;
/// What the expressions of one host may take together.
const MOST_SET_BYTES: usize = 16 << 20;

/// Two routes of which a request could be either's, or the first and last of too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    Same(usize, usize),
    TooMany {
        first: usize,
        last: usize,
        most: usize,
    },
}

impl Conflict {
    pub(super) fn first(&self) -> usize {
        match self {
            Self::Same(first, _) | Self::TooMany { first, .. } => *first,
        }
    }

    pub(super) fn second(&self) -> usize {
        match self {
            Self::Same(_, second) | Self::TooMany { last: second, .. } => *second,
        }
    }
}

/// A table in the making.
struct Builder<'a> {
    routes: &'a [Arc<Compiled>],
    table: Table,
    parents: Vec<u32>,
    /// The list that each candidate goes to: twice the node, and one more for `rest`.
    slots: Vec<(u32, Candidate)>,
    expressions: Vec<Vec<Candidate>>,
}

impl Table {
    /// Also finds what is in conflict, at most so many.
    pub(super) fn build(routes: &[Arc<Compiled>], most: usize) -> (Self, Vec<Conflict>) {
        let mut order: Vec<_> = routes
            .iter()
            .map(|one| one.precedence.digest)
            .zip(0..)
            .collect();
        order.sort_unstable_by(|(digest, index), (other_digest, other)| {
            let precedence = |index: &u32| &routes[*index as usize].precedence;
            digest
                .cmp(other_digest)
                .then_with(|| {
                    if Precedence::is_whole(*digest) {
                        Ordering::Equal
                    } else {
                        precedence(index).cmp(precedence(other))
                    }
                })
                .then(index.cmp(other))
        });
        let mut builder = Builder {
            routes,
            table: Self {
                edges: HashTable::with_capacity(routes.len()),
                nodes: Vec::with_capacity(routes.len()),
                ..Self::default()
            },
            parents: Vec::new(),
            slots: Vec::with_capacity(routes.len()),
            expressions: Vec::new(),
        };
        for (rank, (_, route)) in order.into_iter().enumerate() {
            let conditions = &routes[route as usize].conditions;
            let (methods, is_all) = conditions
                .as_ref()
                .map_or((u8::MAX, true), |conditions| conditions.methods());
            let candidate = Candidate {
                rank: rank as u32,
                route,
                methods,
                conditional: !is_all,
            };
            builder.insert(candidate);
        }
        builder.finish(most)
    }

    fn put(&mut self, which: Which, from: u32, text: &str, to: u32) {
        let (at, length) = (self.text.len() as u32, text.len() as u32);
        self.text.push_str(text);
        let entry = Entry {
            from,
            at,
            length,
            to,
            beginning: beginning(text),
        };
        let Self {
            text: all,
            exact_hosts,
            below_hosts,
            exact,
            edges,
            ..
        } = self;
        let table = match which {
            Which::ExactHost => exact_hosts,
            Which::BelowHost => below_hosts,
            Which::Exact => exact,
            Which::Edge => edges,
        };
        let again = |entry: &Entry| {
            let (at, length) = (entry.at as usize, entry.length as usize);
            hash(entry.from, &all[at..at + length])
        };
        table.insert_unique(hash(from, text), entry, again);
    }
}

#[derive(Clone, Copy)]
enum Which {
    ExactHost,
    BelowHost,
    Exact,
    Edge,
}

impl Builder<'_> {
    fn insert(&mut self, candidate: Candidate) {
        let compiled = &self.routes[candidate.route as usize];
        let root = self.root(&compiled.host);
        // Ranks come in order, so the first is the best.
        let best = &mut self.table.roots[root as usize].best;
        *best = candidate.rank.min(*best);
        match &compiled.route.path {
            PathPattern::Regex(_) => self.expressions[root as usize].push(candidate),
            PathPattern::Exact(path) => {
                self.table.roots[root as usize].has_exact = true;
                let known = self.table.get(&self.table.exact, root, path);
                let node = known.unwrap_or_else(|| {
                    let node = self.node(NONE);
                    self.table.put(Which::Exact, root, path, node);
                    node
                });
                self.slots.push((2 * node, candidate));
            }
            path => {
                let mut node = self.table.roots[root as usize].node;
                for segment in path.segments() {
                    node = self.step(node, segment);
                }
                let rest = u32::from(path.takes_rest());
                self.slots.push((2 * node + rest, candidate));
            }
        }
    }

    fn root(&mut self, host: &HostPattern) -> u32 {
        let table = &self.table;
        let known = match host {
            HostPattern::Exact(name) => table.get(&table.exact_hosts, 0, name),
            HostPattern::Below(name) => table.get(&table.below_hosts, 0, name),
            HostPattern::Any => table.any_host,
        };
        if let Some(known) = known {
            return known;
        }
        let node = self.node(NONE);
        let root = self.table.roots.len() as u32;
        self.table.roots.push(Root {
            best: NONE,
            node,
            has_exact: false,
            expressions: None,
        });
        self.expressions.push(Vec::new());
        match host {
            HostPattern::Exact(name) => self.table.put(Which::ExactHost, 0, name, root),
            HostPattern::Below(name) => {
                self.table.longest_below = self.table.longest_below.max(name.len());
                self.table.put(Which::BelowHost, 0, name, root);
            }
            HostPattern::Any => self.table.any_host = Some(root),
        }
        root
    }

    fn node(&mut self, parent: u32) -> u32 {
        self.parents.push(parent);
        self.table.nodes.push(Node {
            best: NONE,
            capture: NONE,
            has_edges: false,
            end: List::EMPTY,
            rest: List::EMPTY,
        });
        self.table.nodes.len() as u32 - 1
    }

    fn step(&mut self, node: u32, segment: Segment<'_>) -> u32 {
        match segment {
            Segment::Fixed(text) => {
                let known = self.table.get(&self.table.edges, node, text);
                known.unwrap_or_else(|| {
                    let next = self.node(node);
                    self.table.put(Which::Edge, node, text, next);
                    self.table.nodes[node as usize].has_edges = true;
                    next
                })
            }
            Segment::Capture(_) => {
                let known = self.table.nodes[node as usize].capture;
                if known != NONE {
                    return known;
                }
                let next = self.node(node);
                self.table.nodes[node as usize].capture = next;
                next
            }
        }
    }

    fn finish(mut self, most: usize) -> (Table, Vec<Conflict>) {
        let mut conflicts = Vec::new();
        self.slots.sort_by_key(|(slot, one)| (*slot, one.rank));
        let slots = std::mem::take(&mut self.slots);
        for alike in slots.chunk_by(|(one, _), (other, _)| one == other) {
            let (slot, first) = alike[0];
            let start = self.table.candidates.len() as u32;
            let others = alike[1..].iter().map(|(_, one)| *one);
            self.table.candidates.extend(others);
            let list = List {
                first,
                start,
                count: alike.len() as u32 - 1,
            };
            let node = &mut self.table.nodes[slot as usize / 2];
            node.best = node.best.min(first.rank);
            *(if slot % 2 == 0 {
                &mut node.end
            } else {
                &mut node.rest
            }) = list;
            if alike.len() > 1 {
                let alike: Vec<Candidate> = alike.iter().map(|(_, one)| *one).collect();
                self.compare(&alike, &mut conflicts, most);
            }
        }
        // Nodes are made after their parents.
        for node in (0..self.table.nodes.len()).rev() {
            let (best, parent) = (self.table.nodes[node].best, self.parents[node]);
            if let Some(parent) = self.table.nodes.get_mut(parent as usize) {
                parent.best = parent.best.min(best);
            }
        }
        for (root, candidates) in std::mem::take(&mut self.expressions)
            .into_iter()
            .enumerate()
        {
            if candidates.is_empty() {
                continue;
            }
            let before = conflicts.len();
            self.compare(&candidates, &mut conflicts, most);
            if conflicts.len() == before {
                let expressions = self.expressions(candidates, &mut conflicts);
                self.table.roots[root].expressions = expressions;
            }
        }
        (self.table, conflicts)
    }

    /// Finds conflicts among routes that are alike, in the order of their ranks.
    fn compare(&self, alike: &[Candidate], conflicts: &mut Vec<Conflict>, most: usize) {
        let compiled = |one: &Candidate| &self.routes[one.route as usize];
        if alike.len() > MOST_ALIKE {
            conflicts.push(too_many(alike));
            return;
        }
        let equals =
            |a: &Candidate, b: &Candidate| compiled(a).precedence == compiled(b).precedence;
        for equal in alike.chunk_by(equals) {
            for (index, one) in equal.iter().enumerate() {
                for other in &equal[index + 1..] {
                    if conflicts.len() < most && compiled(one).may_meet(compiled(other)) {
                        let (one, other) = (one.route as usize, other.route as usize);
                        conflicts.push(Conflict::Same(one, other));
                    }
                }
            }
        }
    }

    fn expressions(
        &self,
        candidates: Vec<Candidate>,
        conflicts: &mut Vec<Conflict>,
    ) -> Option<Expressions> {
        let pattern = |one: &Candidate| match &self.routes[one.route as usize].route.path {
            PathPattern::Regex(expression) => anchored(expression),
            path => path.to_string(),
        };
        let set = RegexSetBuilder::new(candidates.iter().map(pattern))
            .unicode(false)
            .size_limit(MOST_SET_BYTES)
            .dfa_size_limit(MOST_SET_BYTES)
            .build();
        match set {
            Ok(set) => Some(Expressions {
                best: candidates[0].rank,
                set,
                candidates,
            }),
            // Each is within its own bounds, so together they are too many.
            Err(_) => {
                conflicts.push(too_many(&candidates));
                None
            }
        }
    }
}

fn too_many(alike: &[Candidate]) -> Conflict {
    Conflict::TooMany {
        first: alike[0].route as usize,
        last: alike[alike.len() - 1].route as usize,
        most: alike.len().min(MOST_ALIKE),
    }
}
