use super::*;

#[test]
fn a_folder_has_one_owner_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/data");
    let first = DataFolder::open(&path).unwrap();
    let refused = DataFolder::open(&path).unwrap_err();
    assert_eq!(refused.code(), "node.data_locked");
    assert!(
        refused.message().contains(&std::process::id().to_string()),
        "{refused}"
    );
    drop(first);
    DataFolder::open(&path).unwrap();
}

#[test]
fn a_token_is_made_once_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let (token, made) = folder.token("admin-token").unwrap();
    assert!(made && token.len() == 43, "{token}");
    assert_eq!(folder.token("admin-token").unwrap(), (token.clone(), false));
    assert_ne!(folder.token("service-token").unwrap().0, token);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(dir.path().join("admin-token"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    fs::write(dir.path().join("admin-token"), "short").unwrap();
    assert_eq!(
        folder.token("admin-token").unwrap_err().code(),
        "node.token_invalid"
    );
}

#[test]
fn a_folder_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataFolder::open(dir.path()).unwrap());
    assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "1");
    for text in ["2", "what"] {
        fs::write(dir.path().join("format"), text).unwrap();
        assert_eq!(
            DataFolder::open(dir.path()).unwrap_err().code(),
            "node.data_format"
        );
    }
}

#[test]
fn endpoints_are_found_while_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    assert_eq!(
        Endpoints::read(dir.path()).unwrap_err().code(),
        "node.unreachable"
    );
    let endpoints = Endpoints {
        pid: 7,
        control: "http://127.0.0.1:1".into(),
        gateway: "http://x".into(),
        dialects: [("eureka".to_owned(), "http://127.0.0.1:3".to_owned())].into(),
    };
    folder.write_endpoints(&endpoints).unwrap();
    assert_eq!(Endpoints::read(dir.path()).unwrap(), endpoints);
    folder.remove_endpoints();
    assert!(Endpoints::read(dir.path()).is_err());
}
