//! The lookup structure. Exact paths stand in one hash table; prefixes and templates in a tree of
//! segments whose edges stand in another; expressions in a set per host, asked last. Every route has
//! a rank, its place in the order of precedence, and every part of the structure knows the best rank
//! within it, so that nothing is looked at that could not win any more.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use regex::bytes::RegexSet;

use crate::{
    compiled::Compiled,
    matcher::{Question, method_bit},
};

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Names of hosts and segments and paths, end to end.
    pub(super) text: String,
    pub(super) exact_hosts: HashTable<Entry>,
    /// By what stands after `*.`.
    pub(super) below_hosts: HashTable<Entry>,
    pub(super) longest_below: usize,
    pub(super) any_host: Option<u32>,
    pub(super) roots: Vec<Root>,
    /// By root and path.
    pub(super) exact: HashTable<Entry>,
    /// By node and segment.
    pub(super) edges: HashTable<Entry>,
    pub(super) nodes: Vec<Node>,
    pub(super) candidates: Vec<Candidate>,
}

/// From a number and a text to a number. The text's beginning stands here too, so that most lookups
/// need not go to where the texts are.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) from: u32,
    pub(super) at: u32,
    pub(super) length: u32,
    pub(super) to: u32,
    pub(super) beginning: [u8; INLINE],
}

/// The routes of one host.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) best: u32,
    pub(super) node: u32,
    pub(super) has_exact: bool,
    pub(super) expressions: Option<Expressions>,
}

#[derive(Debug)]
pub(super) struct Expressions {
    pub(super) best: u32,
    pub(super) set: RegexSet,
    /// In the order of the set, which is that of their ranks.
    pub(super) candidates: Vec<Candidate>,
}

#[derive(Debug)]
pub(super) struct Node {
    /// Of everything here and below.
    pub(super) best: u32,
    /// The node of a capture, or NONE.
    pub(super) capture: u32,
    pub(super) has_edges: bool,
    /// Routes whose path ends here, and routes that take everything below.
    pub(super) end: List,
    pub(super) rest: List,
}

/// The routes that share a path, in the order of their ranks: the first here, the others among the
/// table's candidates.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    /// Its rank is NONE when there is none.
    pub(super) first: Candidate,
    pub(super) start: u32,
    pub(super) count: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        first: Candidate {
            rank: NONE,
            route: NONE,
            methods: 0,
            conditional: false,
        },
        start: 0,
        count: 0,
    };
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) rank: u32,
    pub(super) route: u32,
    /// The methods that it may take, a bit each: most routes with conditions have no others.
    pub(super) methods: u8,
    /// Its conditions have to be asked.
    pub(super) conditional: bool,
}

/// Bytes of a text that stand in its entry.
pub(super) const INLINE: usize = 16;
pub(super) const NONE: u32 = u32::MAX;

/// The best route so far.
struct Best {
    rank: u32,
    route: u32,
}

pub(super) fn hash(from: u32, text: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Fixed: what is looked up comes from clients, but what is stored does not, so nobody can make
    // the table slow.
    let mut hasher = FixedState::with_seed(0x5_1ae3).build_hasher();
    hasher.write(text.as_bytes());
    hasher.write_u32(from);
    hasher.finish()
}

pub(super) fn beginning(text: &str) -> [u8; INLINE] {
    let mut bytes = [0; INLINE];
    let length = text.len().min(INLINE);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

impl Table {
    pub(super) fn find(&self, routes: &[Arc<Compiled>], asked: &Question<'_>) -> Option<usize> {
        let mut search = Search {
            table: self,
            routes,
            asked,
            method: method_bit(asked.method),
            best: Best {
                rank: NONE,
                route: NONE,
            },
        };
        if !self.exact_hosts.is_empty()
            && let Some(root) = self.get(&self.exact_hosts, 0, asked.host)
        {
            search.root(root);
        }
        if !self.below_hosts.is_empty() {
            for dot in memchr::memchr_iter(b'.', asked.host.as_bytes()) {
                let name = &asked.host[dot + 1..];
                if dot > 0
                    && name.len() <= self.longest_below
                    && let Some(root) = self.get(&self.below_hosts, 0, name)
                {
                    search.root(root);
                }
            }
        }
        if let Some(root) = self.any_host {
            search.root(root);
        }
        (search.best.route != NONE).then_some(search.best.route as usize)
    }

    pub(super) fn get(&self, table: &HashTable<Entry>, from: u32, text: &str) -> Option<u32> {
        let beginning = beginning(text);
        let same = |entry: &Entry| {
            entry.from == from
                && entry.length as usize == text.len()
                && entry.beginning == beginning
                && (text.len() <= INLINE || self.text(entry) == text)
        };
        Some(table.find(hash(from, text), same)?.to)
    }

    fn text(&self, entry: &Entry) -> &str {
        &self.text[entry.at as usize..(entry.at + entry.length) as usize]
    }

    fn others(&self, list: &List) -> &[Candidate] {
        &self.candidates[list.start as usize..(list.start + list.count) as usize]
    }
}

struct Search<'a> {
    table: &'a Table,
    routes: &'a [Arc<Compiled>],
    asked: &'a Question<'a>,
    method: u8,
    best: Best,
}

impl Search<'_> {
    fn root(&mut self, root: u32) {
        let table = self.table;
        let root_index = root;
        let root = &table.roots[root as usize];
        if root.best >= self.best.rank {
            return;
        }
        if root.has_exact
            && let Some(slot) = table.get(&table.exact, root_index, self.asked.path)
        {
            self.consider(&table.nodes[slot as usize].end);
        }
        // Past the first slash.
        self.walk(root.node, 1);
        if let Some(expressions) = &root.expressions
            && expressions.best < self.best.rank
        {
            let matches = expressions.set.matches(self.asked.path.as_bytes());
            for index in matches.iter() {
                self.consider_one(expressions.candidates[index]);
            }
        }
    }

    /// Goes down from `node` by the segment that begins at `at`; beyond the path's end there is none.
    fn walk(&mut self, mut node: u32, mut at: usize) {
        let (table, path) = (self.table, self.asked.path);
        loop {
            let here = &table.nodes[node as usize];
            if here.best >= self.best.rank {
                return;
            }
            self.consider(&here.rest);
            if at > path.len() {
                return self.consider(&here.end);
            }
            let length = memchr::memchr(b'/', &path.as_bytes()[at..]);
            let end = length.map_or(path.len(), |length| at + length);
            let segment = &path[at..end];
            let fixed = here
                .has_edges
                .then(|| table.get(&table.edges, node, segment))
                .flatten();
            let capture = (here.capture != NONE && !segment.is_empty()).then_some(here.capture);
            at = end + 1;
            match (fixed, capture) {
                (None, None) => return,
                (Some(next), None) | (None, Some(next)) => node = next,
                (Some(fixed), Some(capture)) => {
                    // As deep as templates are long.
                    self.walk(fixed, at);
                    node = capture;
                }
            }
        }
    }

    fn consider(&mut self, list: &List) {
        self.consider_one(list.first);
        if list.count == 0 {
            return;
        }
        for candidate in self.table.others(list) {
            if candidate.rank >= self.best.rank {
                return;
            }
            self.consider_one(*candidate);
        }
    }

    fn consider_one(&mut self, candidate: Candidate) {
        let Candidate { rank, route, .. } = candidate;
        if rank >= self.best.rank || candidate.methods & self.method == 0 {
            return;
        }
        let holds = !candidate.conditional || {
            let conditions = &self.routes[route as usize].conditions;
            conditions.as_ref().is_none_or(|all| all.hold(self.asked))
        };
        if holds {
            self.best = Best { rank, route };
        }
    }
}
