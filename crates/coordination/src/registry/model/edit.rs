//! Changes of single instances.

use sinew_core::Result;

use super::{Check, Edit, Instance, Metadata, check, health};

/// The instance as it is after a change.
///
/// InvalidArgument `registry.metadata_invalid` when the metadata become too many.
pub(in crate::registry) fn edited(instance: &Instance, edit: Edit) -> Result<Instance> {
    let mut edited = instance.clone();
    match edit {
        Edit::Status(status) => edited.status = status,
        Edit::Override(status) => edited.status_override = status,
        Edit::Metadata(pairs) => {
            let mut all = edited.metadata.to_map();
            all.extend(pairs);
            check::metadata(&all)?;
            edited.metadata = Metadata::from(all);
        }
        Edit::Report(id, seen, output) => {
            if let Some(extra) = &mut edited.extra
                && let Some(check) = extra.checks.iter_mut().find(|check| check.id == id)
            {
                check.health = seen;
                check.output = health::cut(&output).into();
            }
        }
    }
    Ok(edited)
}

impl Instance {
    /// Keeps of an earlier registration what the instance itself does not say: an operator's word,
    /// and what checks saw that go on as they were.
    pub(in crate::registry) fn keep(&mut self, earlier: &Self) {
        self.status_override = earlier.status_override;
        let Some(extra) = &mut self.extra else { return };
        for check in &mut extra.checks {
            let same = |old: &&Check| old.id == check.id && old.probe == check.probe;
            if let Some(old) = earlier.checks().iter().find(same) {
                check.health = old.health;
                check.output = old.output.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sinew_core::{InstanceId, Name};

    use super::*;
    use crate::registry::{Config, Health, Probe, Registration, Status};

    fn instance() -> Instance {
        let name = Name::new("orders").unwrap();
        let id = InstanceId::new("orders-1").unwrap();
        let mut registration = Registration::new(name, id, "127.0.0.1", 80);
        registration
            .checks
            .push(Check::new("tcp", Probe::Tcp { target: "".into() }));
        registration.metadata.insert("a".into(), "1".into());
        registration.check(&Config::default()).unwrap()
    }

    #[test]
    fn each_edit_changes_its_own() {
        let before = instance();
        assert_eq!(before.effective(), Status::Up, "nobody has looked yet");
        let failed = Edit::Report("tcp".into(), Health::Critical, "ä".repeat(200));
        let failed = edited(&before, failed).unwrap();
        assert_eq!(failed.effective(), Status::Down);
        assert_eq!(failed.checks()[0].output.len(), 256);
        let forced = edited(&failed, Edit::Override(Some(Status::Up))).unwrap();
        assert_eq!(
            forced.effective(),
            Status::Down,
            "a check is not overridden"
        );
        let out = edited(&forced, Edit::Override(Some(Status::OutOfService))).unwrap();
        assert_eq!(out.effective(), Status::OutOfService);
        let other = edited(
            &before,
            Edit::Report("other".into(), Health::Critical, String::new()),
        );
        assert_eq!(other.unwrap(), before);

        let pairs = |n: usize| (0..n).map(|n| (format!("k{n}"), String::new())).collect();
        let more = edited(&before, Edit::Metadata(pairs(63))).unwrap();
        assert_eq!(
            (more.metadata.len(), more.metadata.get("a")),
            (64, Some("1"))
        );
        let error = edited(&before, Edit::Metadata(pairs(64))).unwrap_err();
        assert_eq!(error.code(), "registry.metadata_invalid");
        assert_eq!(
            edited(&before, Edit::Metadata(BTreeMap::new())).unwrap(),
            before
        );
    }

    #[test]
    fn registering_again_keeps_what_others_said() {
        let failed = Edit::Report("tcp".into(), Health::Critical, "refused".into());
        let failed = edited(&instance(), failed).unwrap();
        let earlier = edited(&failed, Edit::Override(Some(Status::OutOfService))).unwrap();
        let mut again = instance();
        again.keep(&earlier);
        assert_eq!(again, earlier);
        let mut other = instance();
        other.extra.as_mut().unwrap().checks[0].probe = Probe::Reported;
        other.keep(&earlier);
        assert_eq!(other.checks()[0].health, Health::Unknown, "another check");
    }
}
