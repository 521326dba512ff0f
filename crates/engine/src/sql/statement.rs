use std::{sync::Arc, time::Duration};

use super::{Row, Value};

/// One SQL statement with its parameters: `Statement::new("select name from users where id = $1").bind(7)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text, in the database's dialect, with `$1`, `$2`, … for the parameters.
    pub text: Arc<str>,
    /// The parameters: `$1` is the first.
    pub parameters: Vec<Value>,
    /// How long it may take; never longer than [`super::Limits::statement`], which holds when there is none.
    pub timeout: Option<Duration>,
    /// The most rows that are answered at once; [`super::Limits::rows`] when there is none.
    pub rows: Option<usize>,
}

impl Statement {
    /// A statement without parameters so far.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self {
            text: text.into(),
            parameters: Vec::new(),
            timeout: None,
            rows: None,
        }
    }

    /// Adds the next parameter.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.parameters.push(value.into());
        self
    }

    /// Gives it less time.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Asks for at most so many rows at once.
    #[must_use]
    pub fn at_most(mut self, rows: usize) -> Self {
        self.rows = Some(rows);
        self
    }
}

impl From<&'static str> for Statement {
    fn from(text: &'static str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Statement {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// What a statement did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Rows that it inserted, changed or deleted. MariaDB and MySQL count rows that an `update` found, changed or not, as the others do.
    pub affected: u64,
    /// The number that SQLite, MariaDB or MySQL gave to the last inserted row; `None` in PostgreSQL, which has `returning`.
    pub last_id: Option<i64>,
}

/// What transactions may notice of one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Only what is committed is read; reading the same again may show something else.
    #[default]
    ReadCommitted,
    /// All plain reads show the database as of the first one. A row that was read may be changed by another before this transaction writes
    /// it: PostgreSQL refuses the second writer (`sql.conflict`), MariaDB and MySQL do not, unless it was read `for update`.
    RepeatableRead,
    /// As if all transactions ran one after the other; who would break that gets `sql.conflict`.
    Serializable,
}

/// How a transaction shall begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// What it may notice of others.
    pub isolation: Isolation,
    /// Whether writes are refused (`sql.read_only`).
    pub read_only: bool,
    /// How long it may be open, from its beginning to the call of `commit` or `prepare`.
    pub timeout: Duration,
}

impl Default for Begin {
    fn default() -> Self {
        Self {
            isolation: Isolation::default(),
            read_only: false,
            timeout: Duration::from_secs(60),
        }
    }
}

impl Begin {
    /// A transaction of this level that writes.
    pub fn at(isolation: Isolation) -> Self {
        Self {
            isolation,
            ..Self::default()
        }
    }

    /// The same without writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same with another time limit.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that is committed: the primary answers.
    Newest,
    /// Everything that was committed this long ago.
    Within(Duration),
}

/// Who answered a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The primary.
    Primary,
    /// A replica.
    Replica {
        /// Its host and port.
        name: String,
        /// It held everything that had been committed this long before.
        staleness: Duration,
    },
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The rows.
    pub rows: Vec<Row>,
    /// Who answered.
    pub source: Source,
}
