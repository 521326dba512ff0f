use sinew_core::Kind;

use super::*;
use Dialect::{Mysql, Postgres, Sqlite};

const ALL: [Dialect; 3] = [Sqlite, Postgres, Mysql];

fn text(sql: &str, dialect: Dialect, parameters: usize) -> String {
    translate(sql, dialect, parameters).unwrap().text
}

#[track_caller]
fn refused(sql: &str, dialect: Dialect, parameters: usize, part: &str) {
    let error = translate(sql, dialect, parameters).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert_eq!(error.code(), "sql.statement_invalid");
    assert!(error.message().contains(part), "{sql}: {}", error.message());
}

#[test]
fn parameters_become_what_the_database_knows() {
    let sql = "select $2, $1, $2 from t where a=$10";
    let parameters = 10;
    let rest = " and ($3,$4,$5,$6,$7,$8,$9) is null";
    let sql = format!("{sql}{rest}");
    assert_eq!(text(&sql, Postgres, parameters), sql);
    assert_eq!(text(&sql, Sqlite, parameters), sql.replace('$', "?"));
    let translated = translate(&sql, Mysql, parameters).unwrap();
    assert_eq!(translated.text.matches('?').count(), 11);
    assert!(!translated.text.contains('$'));
    assert_eq!(translated.order.unwrap(), [1, 0, 1, 9, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(translated.keyword, "SELECT");
}

#[test]
fn quotes_comments_and_names_hold_no_parameters() {
    for dialect in ALL {
        for sql in [
            "select '$1 it''s $2'",
            r#"select "$1 ""x"" $2""#,
            "select 1 -- $1 'never ends\n",
            "select 1 /* $1 ' */",
            "select a$1 from t$2",
        ] {
            assert_eq!(text(sql, dialect, 0), sql, "{dialect:?}");
        }
    }
    for sql in [
        "select $$ $1 ' $$, $tag$ $1 $$ $other$ $tag$",
        "select /* one /* two $1 */ $2 */ 1",
        r"select E'\'$1', '\', 1",
        "select '{}'::jsonb ? 'a', a ?| b",
    ] {
        assert_eq!(text(sql, Postgres, 0), sql);
    }
    for sql in [
        r"select '\'$1', '\\', 1",
        r#"select "\"$1""#,
        "select `$1``` # $1",
        "select 5--1",
    ] {
        assert_eq!(text(sql, Mysql, 0), sql);
    }
    for sql in ["select [$1'], `$1`", r"select '\', 1"] {
        assert_eq!(text(sql, Sqlite, 0), sql);
    }
    // Comments of these do not nest: the parameter stands outside.
    assert_eq!(text("select /* /* */ $1", Sqlite, 1), "select /* /* */ ?1");
    // Not a comment there.
    assert_eq!(text("select 5--$1", Mysql, 1), "select 5--?");
}

#[test]
fn parameters_and_text_must_agree() {
    for dialect in ALL {
        refused("select $1", dialect, 0, "there are 0 parameters");
        refused("select $0", dialect, 1, "$0");
        refused("select 1", dialect, 1, "no $1");
        refused("select $1, $3", dialect, 3, "no $2");
        refused("select $1a", dialect, 1, "letter");
        refused("select $99999999999999999999999", dialect, 1, "parameters");
    }
    refused("select ?", Mysql, 0, "not ?");
    refused("select ?1", Sqlite, 1, "not ?");
    refused("select :name", Sqlite, 0, "not ?");
}

#[test]
fn what_does_not_end_is_refused() {
    for dialect in ALL {
        refused("select 'x", dialect, 0, "quote");
        refused("select \"x", dialect, 0, "quote");
        refused("select 1 /* x", dialect, 0, "comment");
        refused("select 'a\0b'", dialect, 0, "zero byte");
        refused("", dialect, 0, "no statement");
        refused(" -- x", dialect, 0, "no statement");
    }
    refused("select $a$ $b$", Postgres, 0, "dollar");
    refused(r"select '\'", Mysql, 0, "quote");
}

#[test]
fn one_statement_at_a_time_and_none_that_takes_the_connection() {
    for dialect in ALL {
        refused("select 1; delete from t", dialect, 0, "more than one");
        assert_eq!(text("select 1; -- done", dialect, 0), "select 1; -- done");
        for sql in [
            "begin",
            " /* x */ Commit",
            "rollback",
            "SET x = 1",
            "prepare transaction 'x'",
        ] {
            refused(sql, dialect, 0, "not for statements");
        }
    }
    refused("XA START 'x'", Mysql, 0, "not for statements");
    refused("/*! commit */", Mysql, 0, "whose content runs");
    refused("/*M!100100 commit */", Mysql, 0, "whose content runs");
    refused("pragma foreign_keys = off", Sqlite, 0, "not for statements");
    let trigger = "create trigger a after insert on t begin delete from u; end";
    assert_eq!(text(trigger, Sqlite, 0), trigger);
}
