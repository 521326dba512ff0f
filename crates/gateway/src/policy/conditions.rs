use serde::{Deserialize, Serialize};

/// What may go wrong with one try. Written as a list of `"connect"` (no connection could be made),
/// `"reset"` (the instance hung up, or answered what is no HTTP), `"timeout"` (no answer in time),
/// statuses from `"400"` to `"599"`, and `"5xx"` for all of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Conditions {
    connect: bool,
    reset: bool,
    timeout: bool,
    /// A bit for each status from 400 and from 500 on.
    statuses: [u128; 2],
}

/// What went wrong with one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Connect,
    Reset,
    Timeout,
    Status(u16),
}

const ALL: u128 = (1 << 100) - 1;

impl Conditions {
    /// No condition.
    pub const NONE: Self = Self {
        connect: false,
        reset: false,
        timeout: false,
        statuses: [0, 0],
    };

    /// `["reset", "timeout", "502", "503", "504"]`: the instance is not there, in one way or another.
    pub fn gateway_failures() -> Self {
        let gone = Self {
            reset: true,
            timeout: true,
            ..Self::NONE
        };
        [502, 503, 504].into_iter().fold(gone, Self::with_status)
    }

    /// `["connect", "reset"]`: no answer came, nor will it.
    pub fn no_answer() -> Self {
        Self {
            connect: true,
            reset: true,
            ..Self::NONE
        }
    }

    /// `["connect", "reset", "timeout", "5xx"]`.
    pub fn all_failures() -> Self {
        Self {
            connect: true,
            reset: true,
            timeout: true,
            statuses: [0, ALL],
        }
    }

    /// These, and this status (400 to 599; others stay without effect).
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        if let Some((class, bit)) = place(status) {
            self.statuses[class] |= bit;
        }
        self
    }

    /// These, and `timeout`.
    #[must_use]
    pub fn with_timeout(self) -> Self {
        Self {
            timeout: true,
            ..self
        }
    }

    pub(crate) fn has(&self, cause: Cause) -> bool {
        match cause {
            Cause::Connect => self.connect,
            Cause::Reset => self.reset,
            Cause::Timeout => self.timeout,
            Cause::Status(status) => {
                place(status).is_some_and(|(class, bit)| self.statuses[class] & bit != 0)
            }
        }
    }
}

fn place(status: u16) -> Option<(usize, u128)> {
    match status {
        400..=499 => Some((0, 1 << (status - 400))),
        500..=599 => Some((1, 1 << (status - 500))),
        _ => None,
    }
}

impl TryFrom<Vec<String>> for Conditions {
    type Error = String;

    fn try_from(list: Vec<String>) -> Result<Self, String> {
        let mut conditions = Self::NONE;
        for text in list {
            match (
                text.as_str(),
                text.parse().ok().filter(|s| place(*s).is_some()),
            ) {
                ("connect", _) => conditions.connect = true,
                ("reset", _) => conditions.reset = true,
                ("timeout", _) => conditions.timeout = true,
                ("5xx", _) => conditions.statuses[1] = ALL,
                (_, Some(status)) => conditions = conditions.with_status(status),
                _ => {
                    return Err(format!(
                        "{text:?} is no condition: use \"connect\", \"reset\", \"timeout\", \"5xx\" \
                         or a status from \"400\" to \"599\""
                    ));
                }
            }
        }
        Ok(conditions)
    }
}

impl From<Conditions> for Vec<String> {
    fn from(conditions: Conditions) -> Self {
        let named = [
            (conditions.connect, "connect"),
            (conditions.reset, "reset"),
            (conditions.timeout, "timeout"),
            (conditions.statuses[1] == ALL, "5xx"),
        ];
        let mut list: Self = named
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let single = (400..600).filter(|status| {
            let whole = *status >= 500 && conditions.statuses[1] == ALL;
            !whole && conditions.has(Cause::Status(*status))
        });
        list.extend(single.map(|status| status.to_string()));
        list
    }
}
