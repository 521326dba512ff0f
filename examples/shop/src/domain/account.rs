//! Accounts: what a name, an e-mail address and a password must be.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fault::{Checks, Result};

/// Somebody with an account, as he may see himself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) role: Role,
    pub(crate) created_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Customer,
    Admin,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn from_stored(text: &str) -> Self {
        if text == Self::Admin.as_str() {
            Self::Admin
        } else {
            Self::Customer
        }
    }
}

/// The address as it is stored and compared: in lower case, without blanks around it.
pub(crate) fn canonical_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Checks what somebody wants to register with; `email` is canonical.
pub(crate) fn check_registration(name: &str, email: &str, password: &str) -> Result<()> {
    let mut checks = Checks::default();
    let length = name.trim().chars().count();
    let printable = !name.chars().any(char::is_control);
    checks.check(
        (1..=100).contains(&length) && printable,
        "name",
        "must be 1 to 100 printable characters",
    );
    checks.check(
        is_email(email),
        "email",
        "must be an address such as ada@example.com",
    );
    check_password(&mut checks, "password", password);
    checks.finish()
}

/// Checks a password that somebody wants to have from now on.
pub(crate) fn check_new_password(password: &str) -> Result<()> {
    let mut checks = Checks::default();
    check_password(&mut checks, "new_password", password);
    checks.finish()
}

/// No password is longer, also not in a login: hashing a megabyte would cost the server.
pub(crate) const MAX_PASSWORD_BYTES: usize = 512;

fn check_password(checks: &mut Checks, field: &str, password: &str) {
    // Length is what counts (NIST SP 800-63B §5.1.1.2): no rules about digits and signs.
    let length = password.chars().count();
    checks.check(
        (8..=128).contains(&length) && password.len() <= MAX_PASSWORD_BYTES,
        field,
        "must be 8 to 128 characters",
    );
}

/// Whether it has the shape `local@domain.tld`. Whether somebody reads it only a message can tell.
fn is_email(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    let plain = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    email.len() <= 254
        && (1..=64).contains(&local.len())
        && local.chars().all(plain)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && domain.contains('.')
        && domain.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["ada@example.com", "a.b+c@sub.example.co", "ü@exämple.de"] {
            assert!(is_email(good), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "a b@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a@-x.com",
            "a@x..com",
            "a@b@example.com",
            "a\n@example.com",
            &long,
        ] {
            assert!(!is_email(bad), "{bad:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let fault = check_registration(" ", "nobody", "short").unwrap_err();
        let fields: Vec<_> = fault
            .more()
            .errors
            .iter()
            .map(|e| e.field.as_str())
            .collect();
        assert_eq!(fields, ["name", "email", "password"]);
        assert_eq!(fault.code(), "shop.invalid_request");
        assert!(check_registration("Ada", "ada@example.com", "long enough").is_ok());
    }
}
