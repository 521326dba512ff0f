//! Accounts.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use sinew_core::Kind;
use uuid::Uuid;

use super::{
    row::{all, execute, one, parsed, text},
    sqlite::Migration,
};
use crate::{
    domain::account::{Role, User},
    fault::{Fault, Result},
};

pub(crate) const MIGRATIONS: &[Migration] = &[Migration::Sql(
    "CREATE TABLE users (
         id                 TEXT PRIMARY KEY,
         email              TEXT NOT NULL UNIQUE,
         name               TEXT NOT NULL,
         password_hash      TEXT NOT NULL,
         role               TEXT NOT NULL CHECK (role IN ('customer', 'admin')),
         version            INTEGER NOT NULL,
         version_changed_ms INTEGER NOT NULL,
         created_ms         INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX users_by_version_change ON users (version_changed_ms) WHERE version > 1;",
)];

/// A user and the secrets of his account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) password_hash: String,
    /// Of the credentials: a token of a lower version is void.
    pub(crate) version: i64,
}

/// Errors: `shop.email_taken`.
pub(crate) fn create(db: &Connection, account: &Account) -> Result<()> {
    let user = &account.user;
    let inserted = execute(
        db,
        "INSERT INTO users VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT (email) DO NOTHING",
        params![
            text(user.id),
            user.email,
            user.name,
            account.password_hash,
            user.role.as_str(),
            account.version,
            user.created_ms
        ],
    )?;
    if inserted == 0 {
        return Err(Fault::new(
            Kind::AlreadyExists,
            "shop.email_taken",
            "there is an account with this e-mail address",
        ));
    }
    Ok(())
}

pub(crate) fn by_email(db: &Connection, email: &str) -> Result<Option<Account>> {
    one(db, "SELECT * FROM users WHERE email = ?1", [email], account)
}

pub(crate) fn by_id(db: &Connection, id: Uuid) -> Result<Option<Account>> {
    one(db, "SELECT * FROM users WHERE id = ?1", [text(id)], account)
}

/// Replaces the password if the credentials still have the version that was checked; answers the
/// new version, or `None` when somebody else changed them meanwhile.
pub(crate) fn change_password(
    db: &Connection,
    id: Uuid,
    checked_version: i64,
    password_hash: &str,
    now_ms: i64,
) -> Result<Option<i64>> {
    one(
        db,
        "UPDATE users SET password_hash = ?3, version = version + 1, version_changed_ms = ?4
         WHERE id = ?1 AND version = ?2 RETURNING version",
        params![text(id), checked_version, password_hash, now_ms],
        |row| row.get(0),
    )
}

/// The credential versions of those who changed them at `since_ms` or later.
pub(crate) fn changed_since(db: &Connection, since_ms: i64) -> Result<BTreeMap<String, i64>> {
    let rows = all(
        db,
        "SELECT id, version FROM users WHERE version > 1 AND version_changed_ms >= ?1",
        [since_ms],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(rows.into_iter().collect())
}

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        user: User {
            id: parsed(row, "id")?,
            name: row.get("name")?,
            email: row.get("email")?,
            role: Role::from_stored(&row.get::<_, String>("role")?),
            created_ms: row.get("created_ms")?,
        },
        password_hash: row.get("password_hash")?,
        version: row.get("version")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Store;

    #[tokio::test]
    async fn addresses_are_unique_and_password_changes_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("users.db"), MIGRATIONS).unwrap();
        let account = |email: &str| Account {
            user: User {
                id: sinew_core::new_id(),
                name: "Ada".into(),
                email: email.into(),
                role: Role::Customer,
                created_ms: 5,
            },
            password_hash: "first".into(),
            version: 1,
        };
        let ada = account("ada@example.com");
        let id = ada.user.id;
        store.write(move |db| create(db, &ada)).await.unwrap();
        let again = account("ada@example.com");
        let fault = store.write(move |db| create(db, &again)).await.unwrap_err();
        assert_eq!(fault.code(), "shop.email_taken");

        assert!(
            store
                .read(|db| changed_since(db, 0))
                .await
                .unwrap()
                .is_empty()
        );
        let version = store
            .write(move |db| change_password(db, id, 1, "second", 9))
            .await
            .unwrap();
        assert_eq!(version, Some(2));
        let stale = store
            .write(move |db| change_password(db, id, 1, "third", 9))
            .await
            .unwrap();
        assert_eq!(stale, None);
        let found = store
            .read(|db| by_email(db, "ada@example.com"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((found.password_hash.as_str(), found.version), ("second", 2));
        let changed = store.read(|db| changed_since(db, 9)).await.unwrap();
        assert_eq!(changed, BTreeMap::from([(id.to_string(), 2)]));
        assert!(
            store
                .read(|db| changed_since(db, 10))
                .await
                .unwrap()
                .is_empty()
        );
    }
}
