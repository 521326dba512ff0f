//! Proofs that routes ask for. So far: a JSON Web Token as bearer.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt::Write,
    rc::Rc,
    sync::Arc,
};

use sinew_core::Timestamp;
use sinew_token::Claims;
use tokio::sync::watch;

use crate::{
    fault::Fault,
    h1::{FieldKind, RequestHead},
    keys::{Keys, TokenKeys},
};

/// One thread's view of the keys, and the tokens it verified lately: a signature costs several
/// times what forwarding a request does, and clients send the same token again and again.
pub(crate) struct Authenticator {
    keys: Option<RefCell<watch::Receiver<Option<Arc<TokenKeys>>>>>,
    verified: RefCell<HashMap<Box<str>, Verified>>,
    /// The seconds of the last check, to notice a wall clock that went backwards.
    checked: Cell<u64>,
}

struct Verified {
    identity: Rc<Identity>,
    expires: u64,
}

/// Who asks, as the header lines that tell the service.
#[derive(Debug)]
pub(crate) struct Identity {
    lines: String,
}

/// When there are more, all are forgotten; a set that is simply emptied needs no bookkeeping.
const MOST_VERIFIED: usize = 4_096;
/// Longer tokens are verified each time.
const LONGEST_REMEMBERED: usize = 2 << 10;

impl Authenticator {
    pub(crate) fn new(keys: Option<&dyn Keys>) -> Self {
        let keys = keys.map(|keys| {
            let mut keys = keys.watch();
            keys.mark_changed();
            RefCell::new(keys)
        });
        Self {
            keys,
            verified: RefCell::default(),
            checked: Cell::new(0),
        }
    }

    /// Who the token of this request speaks for.
    pub(crate) fn check(&self, head: &RequestHead, now: Timestamp) -> Result<Rc<Identity>, Fault> {
        let keys = self.keys.as_ref().ok_or_else(Fault::keys_unknown)?;
        let mut keys = keys.borrow_mut();
        let mut verified = self.verified.borrow_mut();
        let backwards = now.as_secs() < self.checked.replace(now.as_secs());
        // Nobody's token outlives a change of the keys or the revocations.
        if keys.has_changed().unwrap_or(false) || backwards || verified.len() >= MOST_VERIFIED {
            keys.mark_unchanged();
            verified.clear();
        }
        let keys = keys.borrow();
        let keys = keys.as_ref().ok_or_else(Fault::keys_unknown)?;
        let token = bearer(head)?;
        if let Some(known) = verified.get(token)
            && known.expires > now.as_secs()
        {
            return Ok(known.identity.clone());
        }
        let claims = keys
            .verifier
            .verify(token, &keys.keys, &keys.revocations, now)
            .map_err(|error| Fault::unauthenticated(Some(&error)))?;
        let identity = Rc::new(Identity::new(&claims));
        if token.len() <= LONGEST_REMEMBERED {
            let known = Verified {
                identity: identity.clone(),
                expires: claims.exp,
            };
            verified.insert(token.into(), known);
        }
        Ok(identity)
    }
}

/// The bearer token; two `Authorization` headers are none.
fn bearer(head: &RequestHead) -> Result<&str, Fault> {
    let none = || Fault::unauthenticated(None);
    let value = head
        .single(FieldKind::Authorization)
        .map_err(|()| none())?
        .ok_or_else(none)?;
    let (scheme, token) = value.split_at_checked(7).ok_or_else(none)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(none());
    }
    std::str::from_utf8(token.trim_ascii()).map_err(|_| none())
}

impl Identity {
    fn new(claims: &Claims) -> Self {
        let mut lines = String::new();
        push_line("x-auth-subject", &claims.sub, &mut lines);
        if let Some(role) = &claims.role {
            push_line("x-auth-role", role, &mut lines);
        }
        Self { lines }
    }

    pub(crate) fn lines(&self) -> &[u8] {
        self.lines.as_bytes()
    }
}

/// A claim may hold anything, a header may not: what is not visible ASCII is percent-encoded.
fn push_line(name: &str, value: &str, to: &mut String) {
    let _ = write!(to, "{name}: ");
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => to.push(char::from(byte)),
            _ => {
                let _ = write!(to, "%{byte:02X}");
            }
        }
    }
    to.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_cannot_break_out_of_their_line() {
        let mut line = String::new();
        push_line("x-auth-subject", "a\r\nx-auth-role: admin ä%", &mut line);
        assert_eq!(
            line,
            "x-auth-subject: a%0D%0Ax-auth-role:%20admin%20%C3%A4%25\r\n"
        );
    }
}
