//! Reads the text of a statement as far as it takes to find its parameters: what stands in quotes, comments and names is passed over
//! as the database itself would.

use sinew_core::Result;
use sinew_engine::sql::{Dialect, fault};

/// A statement as its database takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    /// The text with the database's own placeholders.
    pub(super) text: String,
    /// Which parameter goes where, where the database only knows them by position.
    pub(super) order: Option<Vec<usize>>,
    /// The first word, in capitals.
    pub(super) keyword: String,
}

/// Puts the database's placeholders for `$1` to `$parameters`. `sql.statement_invalid` (InvalidArgument) when one is missing or too
/// many, when a quote or comment does not end, and for statements that would take the connection out of our hands.
pub(super) fn translate(text: &str, dialect: Dialect, parameters: usize) -> Result<Translated> {
    let mut reader = Reader {
        bytes: text.as_bytes(),
        at: 0,
        dialect,
    };
    let mut out = String::with_capacity(text.len() + 8);
    let mut order = Vec::new();
    let mut seen = vec![false; parameters];
    let mut keyword = String::new();
    let mut ended = false;
    while reader.at < text.len() {
        let from = reader.at;
        let piece = reader.next()?;
        if ended && piece != Piece::Blank && keyword != "CREATE" {
            // The body of a trigger or procedure has statements of its own; nothing else has.
            return Err(fault::statement_invalid(
                "the text has more than one statement; use a batch",
            ));
        }
        match piece {
            Piece::Parameter(number) => {
                let known = number.checked_sub(1).and_then(|index| seen.get_mut(index));
                let Some(seen) = known else {
                    return Err(fault::statement_invalid(format!(
                        "the text has ${number}, but there are {parameters} parameters"
                    )));
                };
                *seen = true;
                match dialect {
                    Dialect::Postgres => out.push_str(&text[from..reader.at]),
                    Dialect::Sqlite => {
                        out.push('?');
                        out.push_str(&text[from + 1..reader.at]);
                    }
                    Dialect::Mysql => {
                        out.push('?');
                        order.push(number - 1);
                    }
                }
                continue;
            }
            Piece::Placeholder => {
                return Err(fault::statement_invalid(
                    "parameters are written $1, $2, …, not ?",
                ));
            }
            Piece::Word if keyword.is_empty() => {
                keyword = text[from..reader.at].to_ascii_uppercase();
            }
            Piece::End => ended = true,
            Piece::Word | Piece::Blank | Piece::Other => {}
        }
        out.push_str(&text[from..reader.at]);
    }
    if let Some(missing) = seen.iter().position(|seen| !seen) {
        return Err(fault::statement_invalid(format!(
            "there are {parameters} parameters, but the text has no ${}",
            missing + 1
        )));
    }
    if keyword.is_empty() && out.bytes().all(|byte| byte != b'(') {
        return Err(fault::statement_invalid("the text has no statement"));
    }
    if controls(&keyword, dialect) {
        return Err(fault::statement_invalid(format!(
            "{keyword} is not for statements: transactions have calls of their own, and connections are shared"
        )));
    }
    let order = (dialect == Dialect::Mysql).then_some(order);
    Ok(Translated {
        text: out,
        order,
        keyword,
    })
}

/// What would change the transaction or the session.
fn controls(keyword: &str, dialect: Dialect) -> bool {
    let everywhere = [
        "BEGIN",
        "START",
        "COMMIT",
        "ROLLBACK",
        "END",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "PREPARE",
        "DEALLOCATE",
        "SET",
        "RESET",
    ];
    let only: &[&str] = match dialect {
        Dialect::Postgres => &["DISCARD", "LISTEN", "UNLISTEN", "COPY"],
        Dialect::Mysql => &["XA", "LOCK", "UNLOCK", "USE", "KILL", "SHUTDOWN"],
        Dialect::Sqlite => &["ATTACH", "DETACH", "PRAGMA"],
    };
    everywhere.contains(&keyword) || only.contains(&keyword)
}

/// Whether MariaDB or MySQL commits what is open before it runs this.
pub(super) fn commits_implicitly(keyword: &str, dialect: Dialect) -> bool {
    dialect == Dialect::Mysql
        && matches!(
            keyword,
            "CREATE"
                | "ALTER"
                | "DROP"
                | "RENAME"
                | "TRUNCATE"
                | "GRANT"
                | "REVOKE"
                | "ANALYZE"
                | "OPTIMIZE"
                | "REPAIR"
                | "FLUSH"
                | "INSTALL"
                | "UNINSTALL"
                | "CACHE"
                | "CHECK"
        )
}

/// Whether the statement cannot write, by its first word.
pub(super) fn only_reads(keyword: &str) -> bool {
    matches!(
        keyword,
        "" | "SELECT" | "WITH" | "VALUES" | "TABLE" | "SHOW" | "EXPLAIN" | "DESCRIBE" | "DESC"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// `$7`.
    Parameter(usize),
    /// A placeholder of the database's own.
    Placeholder,
    Word,
    /// Space or a comment.
    Blank,
    /// `;`.
    End,
    Other,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    dialect: Dialect,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn next(&mut self) -> Result<Piece> {
        use Dialect::{Mysql, Postgres, Sqlite};
        let dialect = self.dialect;
        match (self.peek(0), dialect) {
            (0, _) => Err(fault::statement_invalid("the text has a zero byte")),
            (b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c, _) => self.skip(1, Piece::Blank),
            (b'-', _) if self.peek(1) == b'-' && self.dashes_comment() => self.line(),
            (b'#', Mysql) => self.line(),
            (b'/', _) if self.peek(1) == b'*' => self.block(),
            (b'\'', Mysql) => self.quoted(b'\'', true),
            (b'\'', _) => self.quoted(b'\'', false),
            (b'"', Mysql) => self.quoted(b'"', true),
            (b'"', _) => self.quoted(b'"', false),
            (b'`', Mysql | Sqlite) => self.quoted(b'`', false),
            (b'[', Sqlite) => self.quoted(b']', false),
            (b'e' | b'E', Postgres) if self.peek(1) == b'\'' => {
                self.at += 1;
                self.quoted(b'\'', true)
            }
            (b'$', _) if self.peek(1).is_ascii_digit() => self.parameter(),
            (b'$', Postgres) => self.dollar_quoted(),
            (b'?', Mysql | Sqlite) => self.skip(1, Piece::Placeholder),
            // SQLite's other notations for parameters.
            (b':' | b'@' | b'$', Sqlite) if is_word(self.peek(1)) => {
                self.skip(1, Piece::Placeholder)
            }
            (b';', _) => self.skip(1, Piece::End),
            (byte, _) if is_word(byte) => {
                // `$` is a part of names in all three, so `a$1` holds no parameter.
                while is_word(self.peek(0)) || self.peek(0) == b'$' {
                    self.at += 1;
                }
                Ok(Piece::Word)
            }
            _ => self.skip(1, Piece::Other),
        }
    }

    fn skip(&mut self, bytes: usize, piece: Piece) -> Result<Piece> {
        self.at += bytes;
        Ok(piece)
    }

    fn parameter(&mut self) -> Result<Piece> {
        self.at += 1;
        let mut number = 0_usize;
        while let digit @ b'0'..=b'9' = self.peek(0) {
            number = number
                .saturating_mul(10)
                .saturating_add(usize::from(digit - b'0'));
            self.at += 1;
        }
        if is_word(self.peek(0)) || self.peek(0) == b'$' {
            return Err(fault::statement_invalid(
                "a parameter is followed by a letter; put a space between",
            ));
        }
        Ok(Piece::Parameter(number))
    }

    /// In MariaDB and MySQL, `--` only begins a comment before a space or the end.
    fn dashes_comment(&self) -> bool {
        self.dialect != Dialect::Mysql || self.peek(2) <= b' '
    }

    fn line(&mut self) -> Result<Piece> {
        let length = self.rest().iter().position(|byte| *byte == b'\n');
        self.at = length.map_or(self.bytes.len(), |length| self.at + length + 1);
        Ok(Piece::Blank)
    }

    fn block(&mut self) -> Result<Piece> {
        let runs = self.dialect == Dialect::Mysql
            && (self.peek(2) == b'!' || (self.peek(2) == b'M' && self.peek(3) == b'!'));
        if runs {
            // MariaDB and MySQL run what stands in such a comment: whatever it holds cannot be judged here.
            return Err(fault::statement_invalid(
                "comments whose content runs (/*! … */) are not for statements",
            ));
        }
        let mut depth = 0_usize;
        while self.at < self.bytes.len() {
            let two = [self.peek(0), self.peek(1)];
            if two == *b"/*" && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
                self.at += 2;
            } else if two == *b"*/" {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(Piece::Blank);
                }
            } else {
                self.at += 1;
            }
        }
        // SQLite closes it at the end of the text; the others complain.
        Err(fault::statement_invalid("a comment does not end"))
    }

    fn quoted(&mut self, end: u8, escapes: bool) -> Result<Piece> {
        self.at += 1;
        while self.at < self.bytes.len() {
            let byte = self.peek(0);
            if byte == b'\\' && escapes {
                self.at += 2;
            } else if byte == end {
                // Doubled, it stands for itself; `]` cannot be.
                if self.peek(1) == end && end != b']' {
                    self.at += 2;
                } else {
                    self.at += 1;
                    return Ok(Piece::Other);
                }
            } else if byte == 0 {
                return Err(fault::statement_invalid("the text has a zero byte"));
            } else {
                self.at += 1;
            }
        }
        Err(fault::statement_invalid("a quote does not end"))
    }

    fn dollar_quoted(&mut self) -> Result<Piece> {
        let rest = self.rest();
        let tag = rest[1..]
            .iter()
            .position(|byte| !is_word(*byte))
            .filter(|length| rest[1 + length] == b'$')
            .map(|length| rest[..length + 2].to_vec());
        let Some(tag) = tag else {
            return self.skip(1, Piece::Other);
        };
        let body = &rest[tag.len()..];
        let end = body
            .windows(tag.len())
            .position(|window| window == tag)
            .ok_or_else(|| fault::statement_invalid("a dollar quote does not end"))?;
        self.skip(end + 2 * tag.len(), Piece::Other)
    }
}

/// What words consist of; bytes beyond ASCII are letters to all three.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests;
