use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn id() -> ItemId {
    ItemId::new("default", "orders", "default", "main").unwrap()
}

fn body(text: &str) -> Body {
    Body {
        content: Bytes::from(text.to_owned()),
        ..Body::default()
    }
}

fn rule(percent: f64) -> Rule {
    Rule {
        percent,
        ..Rule::default()
    }
}

/// An item over a sequence of commands, as the shell would keep it.
#[derive(Default)]
struct World {
    stored: Option<Stored>,
    history: BTreeMap<u64, Bytes>,
}

impl World {
    fn take(&mut self, command: &Command, expected: Option<u64>, config: &Config) -> Result<bool> {
        let by = By {
            author: "ann".into(),
            note: String::new(),
            expected,
        };
        let stored = self.stored.as_ref();
        match step(&id(), stored, command, &by, Timestamp(1), config)? {
            Decision::Nothing(_) => return Ok(false),
            Decision::Store {
                stored,
                made,
                forget,
                version,
                ..
            } => {
                if let Some(content) = made {
                    assert!(self.history.insert(version.version, content).is_none());
                }
                for number in forget {
                    assert!(self.history.remove(&number).is_some());
                }
                let encoded = stored.encode();
                assert_eq!(Stored::decode(&encoded).as_ref(), Some(&*stored));
                self.stored = Some(*stored);
            }
        }
        Ok(true)
    }

    fn done(&mut self, command: &Command, expected: Option<u64>) -> bool {
        self.take(command, expected, &Config::default()).unwrap()
    }

    fn code(&mut self, command: &Command, expected: Option<u64>) -> String {
        let refused = self.take(command, expected, &Config::default());
        refused.unwrap_err().code().to_owned()
    }

    fn contents(&self) -> (&[u8], &[u8], u64) {
        let stored = self.stored.as_ref().unwrap();
        (&stored.current, &stored.gray, stored.head.number())
    }
}

#[test]
fn the_life_of_an_item() {
    let mut world = World::default();
    assert_eq!(world.code(&Command::Delete, None), "configs.item_unknown");
    let a = Command::Put(body("a"));
    assert_eq!(world.code(&a, Some(1)), "configs.changed_meanwhile");
    assert!(world.done(&a, Some(0)));
    assert!(!world.done(&a, None));
    assert!(world.done(&Command::Gray(body("b"), rule(10.0)), Some(1)));
    let c = Command::Put(body("c"));
    assert_eq!(world.code(&c, None), "configs.gray_running");
    assert_eq!(world.code(&Command::Delete, None), "configs.gray_running");
    let nobody = Command::Widen(rule(0.0));
    assert_eq!(world.code(&nobody, None), "configs.rule_invalid");
    assert!(world.done(&Command::Widen(rule(50.0)), None));
    assert!(!world.done(&Command::Widen(rule(50.0)), None));
    assert_eq!(world.contents(), (&b"a"[..], &b"b"[..], 1));
    assert!(world.done(&Command::Promote, None));
    assert_eq!(world.contents(), (&b"b"[..], &b""[..], 2));
    assert_eq!(world.code(&Command::Abort, None), "configs.gray_absent");
    assert!(world.done(&Command::Gray(body("c"), rule(1.0)), None));
    assert!(world.done(&Command::Abort, None));
    assert!(world.done(&Command::Delete, Some(2)));
    assert_eq!(world.contents(), (&b""[..], &b""[..], 0));
    assert!(world.done(&Command::Put(body("b")), Some(0)));
    let numbers: Vec<_> = world.history.keys().copied().collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

fn command() -> impl Strategy<Value = Command> {
    let text = |seed: u8| body(&"x".repeat(usize::from(seed)));
    prop_oneof![
        4 => any::<u8>().prop_map(move |seed| Command::Put(text(seed))),
        2 => any::<u8>().prop_map(move |seed| Command::Gray(text(seed), rule(5.0))),
        1 => any::<u8>().prop_map(|seed| Command::Widen(rule(f64::from(seed) / 4.0 + 1.0))),
        1 => Just(Command::Promote),
        1 => Just(Command::Abort),
        1 => Just(Command::Delete),
    ]
}

proptest! {
    #[test]
    fn the_history_is_whole_and_bounded(
        commands in prop::collection::vec(command(), 0..60), versions in 2_usize..6, bytes in 0_usize..400,
    ) {
        let config = Config { versions, history_bytes: bytes, ..Config::default() };
        let mut world = World::default();
        let mut newest = 0;
        for command in commands {
            let _ = world.take(&command, None, &config);
            let Some(stored) = &world.stored else { continue };
            let head = &stored.head;
            prop_assert!(head.newest >= newest);
            newest = head.newest;
            let kept: Vec<u64> = head.kept.iter().map(|(number, _)| *number).collect();
            let made: Vec<u64> = world.history.keys().copied().collect();
            prop_assert_eq!(&kept, &made);
            prop_assert!(kept.len() <= versions.max(3));
            let sum: usize = head.kept.iter().map(|(_, bytes)| bytes).sum();
            prop_assert!(kept.len() <= 3 || sum <= bytes);
            let gray = head.gray.as_ref().map(|gray| &gray.version);
            for (version, content) in [(head.current.as_ref(), &stored.current), (gray, &stored.gray)] {
                if let Some(version) = version {
                    prop_assert_eq!(&world.history[&version.version], content);
                }
            }
        }
    }
}
