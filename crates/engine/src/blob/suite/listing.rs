use super::{
    Case, case,
    stand::{Stand, key},
};
use crate::blob::{Entry, List, Listed};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            listings_are_ordered_bytewise,
            Nothing,
            "The entries, in bytewise order."
        ),
        case!(
            any_names_are_ordered_bytewise,
            AnyKeys,
            "The entries, in bytewise order."
        ),
        case!(
            listings_show_what_head_shows,
            Nothing,
            "An object as a listing shows it."
        ),
        case!(prefixes, AnyKeys, "Only keys that begin with this text."),
        case!(
            prefixes_in_a_tree,
            Nothing,
            "Only keys that begin with this text."
        ),
        case!(
            folders_in_a_tree,
            Nothing,
            "Keys that have a `/` after the prefix are listed as one folder."
        ),
        case!(
            folders,
            AnyKeys,
            "Keys that have a `/` after the prefix are listed as one folder."
        ),
        case!(
            pages_have_every_entry_once,
            Nothing,
            "Where the next page begins, when there is more."
        ),
        case!(
            after_is_any_text,
            Nothing,
            "Only entries after this one; any text."
        ),
        case!(
            pages_while_others_write,
            Nothing,
            "Every later call sees it, listings included."
        ),
    ]
}

async fn fill(stand: &Stand, names: &[&str]) {
    for name in names {
        stand.put(name, "x").await;
    }
}

const NAMES: [&str; 10] = [
    "a", "a-b", "a/b", "a/b/c", "a/b/d", "a/c", "a0", "ab", "c/x/y/z", "é",
];

/// None of them is a folder of another.
const TREE: [&str; 8] = ["a-b", "a/b/c", "a/b/d", "a/c", "a0", "ab", "c/x/y/z", "é"];

async fn listings_are_ordered_bytewise(stand: Stand) {
    fill(&stand, &["b", "a/b", "é", "a0", "B", "a-b", "z", "aa"]).await;
    assert_eq!(
        stand.all().await,
        ["B", "a-b", "a/b", "a0", "aa", "b", "z", "é"]
    );
}

async fn any_names_are_ordered_bytewise(stand: Stand) {
    fill(&stand, &["b", "a/b", "a", "a/b/c", "a-b"]).await;
    assert_eq!(stand.all().await, ["a", "a-b", "a/b", "a/b/c", "b"]);
}

async fn listings_show_what_head_shows(stand: Stand) {
    let object = stand.put("a", "content").await;
    let page = stand.blob().list(List::prefix("")).await.unwrap();
    let listed = Listed {
        key: object.key,
        size: 7,
        tag: object.tag,
        modified: object.modified,
    };
    assert_eq!(
        (page.entries, page.next),
        (vec![Entry::Object(listed)], None)
    );
}

async fn prefixes(stand: Stand) {
    prefixes_of(stand, &NAMES).await;
}

async fn prefixes_in_a_tree(stand: Stand) {
    prefixes_of(stand, &TREE).await;
}

async fn prefixes_of(stand: Stand, names: &[&str]) {
    fill(&stand, names).await;
    for prefix in [
        "", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/cc", "b", "c/x", "é", "\u{c3}", "~",
    ] {
        let expected: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(
            stand.names(List::prefix(prefix)).await,
            expected,
            "{prefix:?}"
        );
    }
}

async fn folders(stand: Stand) {
    fill(&stand, &NAMES).await;
    let expected = [
        ("", &["a", "a-b", "a/", "a0", "ab", "c/", "é"][..]),
        ("a", &["a", "a-b", "a/", "a0", "ab"]),
        ("a/", &["a/b", "a/b/", "a/c"]),
        ("a/b", &["a/b", "a/b/"]),
        ("a/b/", &["a/b/c", "a/b/d"]),
        ("c/x", &["c/x/"]),
        ("c/x/y/z", &["c/x/y/z"]),
        ("d", &[]),
    ];
    folders_are(&stand, &expected).await;
    let list = List {
        folders: true,
        ..List::prefix("")
    };
    let page = stand.blob().list(list).await.unwrap();
    assert_eq!(page.entries[2], Entry::Folder("a/".to_owned()));
    assert!(matches!(&page.entries[0], Entry::Object(object) if object.key == key("a")));
}

async fn folders_in_a_tree(stand: Stand) {
    fill(&stand, &TREE).await;
    let expected = [
        ("", &["a-b", "a/", "a0", "ab", "c/", "é"][..]),
        ("a", &["a-b", "a/", "a0", "ab"]),
        ("a/", &["a/b/", "a/c"]),
        ("a/b", &["a/b/"]),
        ("a/b/", &["a/b/c", "a/b/d"]),
        ("c/x", &["c/x/"]),
        ("c/x/y/z", &["c/x/y/z"]),
        ("d", &[]),
    ];
    folders_are(&stand, &expected).await;
    let list = List {
        folders: true,
        ..List::prefix("")
    };
    let page = stand.blob().list(list).await.unwrap();
    assert_eq!(page.entries[1], Entry::Folder("a/".to_owned()));
    assert!(matches!(&page.entries[0], Entry::Object(object) if object.key == key("a-b")));
}

async fn folders_are(stand: &Stand, table: &[(&str, &[&str])]) {
    let list = |prefix: &str| List {
        folders: true,
        ..List::prefix(prefix)
    };
    for (prefix, expected) in table {
        assert_eq!(stand.names(list(prefix)).await, *expected, "{prefix:?}");
        for limit in 1..4 {
            let pages = List {
                limit,
                ..list(prefix)
            };
            assert_eq!(stand.names(pages).await, *expected, "{prefix:?} by {limit}");
        }
    }
}

async fn pages_have_every_entry_once(stand: Stand) {
    let names: Vec<String> = (0..57).map(|n| format!("k{n:02}")).collect();
    for name in &names {
        stand.put(name, "x").await;
    }
    for limit in [0, 1, 7, 56, 57, 58, usize::MAX] {
        let (mut list, mut found) = (
            List {
                limit,
                ..List::prefix("k")
            },
            Vec::new(),
        );
        loop {
            let page = stand.blob().list(list.clone()).await.unwrap();
            assert!(page.entries.len() <= limit.max(1));
            found.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            match page.next {
                Some(next) => list.after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, names, "pages of {limit}");
    }
}

async fn after_is_any_text(stand: Stand) {
    fill(&stand, &["a", "b/1", "b/2", "c"]).await;
    let from = |after: &str, folders| List {
        after: Some(after.to_owned()),
        folders,
        ..List::prefix("")
    };
    assert_eq!(stand.names(from("", false)).await, ["a", "b/1", "b/2", "c"]);
    assert_eq!(stand.names(from("a", false)).await, ["b/1", "b/2", "c"]);
    assert_eq!(stand.names(from("b/1/x", false)).await, ["b/2", "c"]);
    assert_eq!(stand.names(from("zzz", false)).await, Vec::<String>::new());
    // A folder that lies before it is not shown, though some of its keys come after.
    assert_eq!(stand.names(from("b/1", true)).await, ["c"]);
    assert_eq!(stand.names(from("b", true)).await, ["b/", "c"]);
    let outside = List {
        after: Some("a".to_owned()),
        ..List::prefix("b/")
    };
    assert_eq!(stand.names(outside).await, ["b/1", "b/2"]);
    let behind = List {
        after: Some("c".to_owned()),
        ..List::prefix("b/")
    };
    assert_eq!(stand.names(behind).await, Vec::<String>::new());
}

async fn pages_while_others_write(stand: Stand) {
    for n in 0..30 {
        stand.put(&format!("k{n:02}"), "x").await;
    }
    let (mut list, mut found) = (
        List {
            limit: 4,
            ..List::prefix("k")
        },
        Vec::new(),
    );
    loop {
        let page = stand.blob().list(list.clone()).await.unwrap();
        found.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
        // In front, where nothing is looked at again; and the last that was seen goes.
        stand.put(&format!("k{:02}x", found.len() - 4), "new").await;
        stand.delete(found.last().unwrap()).await;
        match page.next {
            Some(next) => list.after = Some(next),
            None => break,
        }
    }
    let old: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
    assert_eq!(found, old);
}
