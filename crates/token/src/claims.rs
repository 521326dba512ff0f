use std::time::Duration;

use serde_json::{Map, Value};
use sinew_core::{Timestamp, new_id};

/// What a token says. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// Whom it is meant for; in JSON a string when there is one and an array otherwise.
    pub aud: Vec<String>,
    /// Whom it speaks of, never empty.
    pub sub: String,
    /// When it was issued.
    pub iat: Option<u64>,
    /// Before when it is not valid.
    pub nbf: Option<u64>,
    /// When it ends.
    pub exp: u64,
    /// Its own id.
    pub jti: Option<String>,
    /// The subject's role.
    pub role: Option<String>,
    /// The version of the subject's credentials; see [`crate::Revocations`].
    pub ver: Option<u64>,
    /// All other claims.
    pub extra: Map<String, Value>,
}

impl Claims {
    /// Claims of a new token with an id of its own, valid from `now` for `lifetime`.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        subject: impl Into<String>,
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        Self {
            iss: issuer.into(),
            aud: vec![audience.into()],
            sub: subject.into(),
            iat: Some(now.as_secs()),
            nbf: None,
            exp: now.plus(lifetime).as_secs(),
            jti: Some(new_id().to_string()),
            role: None,
            ver: None,
            extra: Map::new(),
        }
    }

    /// With this role.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// With this version of the subject's credentials.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.ver = Some(version);
        self
    }

    /// With one more claim. The registered ones above cannot be set this way.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    pub(crate) fn into_json(self) -> Map<String, Value> {
        let mut object = self.extra;
        let mut put = |name: &str, value: Option<Value>| {
            // The typed fields win over an `extra` of the same name.
            object.remove(name);
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        let aud = match <[String; 1]>::try_from(self.aud) {
            Ok([one]) => Value::String(one),
            Err(several) => several.into(),
        };
        put("iss", Some(self.iss.into()));
        put("aud", Some(aud));
        put("sub", Some(self.sub.into()));
        put("iat", self.iat.map(Value::from));
        put("nbf", self.nbf.map(Value::from));
        put("exp", Some(self.exp.into()));
        put("jti", self.jti.map(Value::from));
        put("role", self.role.map(Value::from));
        put("ver", self.ver.map(Value::from));
        object
    }

    /// Takes the typed claims out of a payload. The error names the claim that is absent or of a
    /// wrong type.
    pub(crate) fn from_json(mut object: Map<String, Value>) -> Result<Self, &'static str> {
        let mut take = |name: &'static str| (name, object.remove(name));
        let claims = Self {
            iss: text(take("iss"))?.ok_or("iss")?,
            aud: audience(take("aud"))?,
            sub: text(take("sub"))?
                .filter(|sub| !sub.is_empty())
                .ok_or("sub")?,
            iat: numeric_date(take("iat"))?,
            nbf: numeric_date(take("nbf"))?,
            exp: numeric_date(take("exp"))?.ok_or("exp")?,
            jti: text(take("jti"))?,
            role: text(take("role"))?,
            ver: match take("ver") {
                (_, None) => None,
                (name, Some(value)) => Some(value.as_u64().ok_or(name)?),
            },
            extra: Map::new(),
        };
        Ok(Self {
            extra: object,
            ..claims
        })
    }
}

type Member = (&'static str, Option<Value>);

fn text((name, value): Member) -> Result<Option<String>, &'static str> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(name),
    }
}

fn audience((name, value): Member) -> Result<Vec<String>, &'static str> {
    match value {
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(several)) => several
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err(name),
            })
            .collect(),
        _ => Err(name),
    }
}

/// Seconds since the epoch; RFC 7519 §2 allows fractions, which are cut off. Nothing before 1970.
fn numeric_date((name, value): Member) -> Result<Option<u64>, &'static str> {
    let Some(value) = value else { return Ok(None) };
    match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) => Ok(Some(seconds)),
        // Up to 2^53 a double counts seconds exactly.
        (None, Some(seconds)) if (0.0..=9_007_199_254_740_992.0).contains(&seconds) => {
            Ok(Some(seconds as u64))
        }
        _ => Err(name),
    }
}
