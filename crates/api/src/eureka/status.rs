//! Eureka's words for whether an instance takes requests.

use sinew_coordination::registry;
use sinew_core::Result;

use super::announced::{invalid, short};

/// In the order of their names, which is the order in which the hash counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Down,
    OutOfService,
    Starting,
    Unknown,
    Up,
}

impl Status {
    const ALL: [Self; 5] = [
        Self::Down,
        Self::OutOfService,
        Self::Starting,
        Self::Unknown,
        Self::Up,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Starting => "STARTING",
            Self::Unknown => "UNKNOWN",
            Self::Up => "UP",
        }
    }

    /// InvalidArgument `eureka.instance_invalid`.
    pub(super) fn read(text: &str) -> Result<Self> {
        let known = Self::ALL
            .into_iter()
            .find(|status| status.name().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            invalid(format!("status {} is none of {names}", short(text)))
        })
    }

    /// What the registry calls it: who is not up takes no requests.
    pub(super) fn kept(self) -> registry::Status {
        match self {
            Self::Up => registry::Status::Up,
            Self::OutOfService => registry::Status::OutOfService,
            Self::Down | Self::Starting | Self::Unknown => registry::Status::Down,
        }
    }

    /// What Eureka calls it. `said` is what the instance's client called it, which tells more.
    pub(super) fn shown(status: registry::Status, said: Option<&str>) -> Self {
        match status {
            registry::Status::Up => Self::Up,
            // It finishes what it has: nobody shall choose it.
            registry::Status::Draining | registry::Status::OutOfService => Self::OutOfService,
            registry::Status::Down => match said {
                Some("STARTING") => Self::Starting,
                Some("UNKNOWN") => Self::Unknown,
                _ => Self::Down,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_place_in_the_registry() {
        for status in Status::ALL {
            assert_eq!(Status::read(status.name()).unwrap(), status);
            assert_eq!(Status::shown(status.kept(), Some(status.name())), status);
        }
        assert_eq!(
            Status::shown(registry::Status::Draining, None),
            Status::OutOfService
        );
        assert_eq!(Status::read("up").unwrap(), Status::Up);
        assert!(Status::read("").is_err());
    }

    #[test]
    fn they_are_counted_in_the_order_of_their_names() {
        let names = Status::ALL.map(Status::name);
        assert!(names.is_sorted() && Status::ALL.is_sorted());
    }
}
