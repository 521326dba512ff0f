use std::fs;

use super::*;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sinew.toml");
    fs::write(&path, file).unwrap();
    let loaded = Config::load(Sources {
        file: Some(path.clone()),
        environment: environment
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
        flags: flags
            .iter()
            .map(|(n, p, v)| (*n, *p, (*v).to_owned()))
            .collect(),
    });
    // The folder's name differs from run to run.
    loaded.map_err(|error| {
        let message = error
            .message()
            .replace(&path.display().to_string(), "sinew.toml");
        match error.code() {
            "config.control_exposed" => Error::new(error.kind(), "config.control_exposed", message),
            "config.dialect_exposed" => Error::new(error.kind(), "config.dialect_exposed", message),
            "config.engine_unsupported" => {
                Error::new(error.kind(), "config.engine_unsupported", message)
            }
            _ => Error::new(error.kind(), "config.invalid", message),
        }
    })
}

const JWT: &str = r#"
[auth.jwt]
issuer = "shop"
audience = "shop"
jwks = "service://users/.well-known/jwks.json"
"#;

#[test]
fn an_empty_file_is_the_defaults() {
    let config = load("", &[], &[]).unwrap();
    let default = Config::default();
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
}

#[test]
fn later_layers_win_key_by_key() {
    let file = "[node]\ndata = \"/file\"\ndrain = \"3s\"\n[gateway]\naddress = \"127.0.0.1:1\"\n\
                threads = 1\n[gateway.limits]\nheaders = 50\n[control]\naddress = \"127.0.0.1:2\"";
    let config = load(
        file,
        &[
            ("SINEW_GATEWAY_ADDRESS", "127.0.0.1:3"),
            ("SINEW_CONTROL_ADDRESS", "127.0.0.1:4"),
            ("SINEW_GATEWAY_THREADS", "2"),
            ("SINEW_GATEWAY_LIMITS_HEAD_BYTES", "16KiB"),
            ("SINEW_URL", "not ours"),
            ("PATH", "/bin"),
        ],
        &[("--control", "control.address", "127.0.0.1:5")],
    )
    .unwrap();
    assert_eq!(config.data, PathBuf::from("/file"));
    assert_eq!(config.drain, Duration::from_secs(3));
    assert_eq!(
        (config.gateway.address.port(), config.control.port()),
        (3, 5)
    );
    assert_eq!(config.gateway.threads, Some(2));
    let limits = config.gateway.limits;
    assert_eq!((limits.headers, limits.head_bytes), (50, 16 << 10));
}

#[test]
fn a_full_file_is_understood() {
    let file = format!(
        "{JWT}revoked = \"service://users/.well-known/revoked.json\"\nrefresh = \"2s\"\n\
         [registry]\ndefault_ttl = \"5s\"\ninstances = 10\ninstances_per_service = 5\n\
         [documents]\nversions = 7\nhistory = \"2MiB\"\n\
         [engines]\nkv = \"embedded:./kv\"\n\
         [[routes]]\npath = \"/api/orders/**\"\nservice = \"orders\"\nauth = [\"jwt\"]\n\
         [[routes]]\npath = \"/api/products/**\"\nservice = \"products\"\n"
    );
    let config = load(&file, &[("SINEW_AUTH_JWT_ISSUER", "other")], &[]).unwrap();
    let jwt = config.jwt.unwrap();
    assert_eq!(
        (jwt.issuer.as_str(), jwt.refresh),
        ("other", Duration::from_secs(2))
    );
    assert_eq!(jwt.revoked.unwrap().path, "/.well-known/revoked.json");
    assert_eq!(config.registry.default_ttl, Duration::from_secs(5));
    assert_eq!(config.registry.instances_per_service, 5);
    assert_eq!(config.gateway.routing.routes.len(), 2);
    assert_eq!(config.kv, "embedded:./kv");
    let documents = config.documents;
    assert_eq!((documents.versions, documents.history_bytes), (7, 2 << 20));
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    let route = |more: &str| format!("[[routes]]\npath = \"/a/**\"\nservice = \"a\"\n{more}\n");
    let twice = route("") + &route("");
    let auth = route("auth = [\"jwt\"]");
    let unknown_auth = route("auth = [\"ldap\"]");
    let strip = route("") + "[[routes]]\npath = \"/b/**\"\nservice = \"b\"\nstrip_prefix = \"/c\"";
    let bad_path = "[[routes]]\npath = \"a/**\"\nservice = \"a\"";
    let jwt = JWT.replace("service://users", "http://users");
    let jwt_slow = format!("{JWT}refresh = \"2h\"");
    let cases: &[(&str, &str)] = &[
        ("[node\n", "sinew.toml:1:6: "),
        (
            "a = 1",
            "sinew.toml:1:1: unknown field `a`, expected one of `node`, `control`",
        ),
        (
            "[node]\ndate = \"x\"",
            "sinew.toml:2:1: unknown field `date`, expected one of `data`, `memory`, `drain`",
        ),
        (
            "[node]\n\n  drain = \"5 sec\"",
            "sinew.toml:3:11: \"5 sec\" is not a time: write a number",
        ),
        (
            "[node]\nmemory = \"256MB\"",
            "sinew.toml:2:10: \"256MB\" is not a size: write a number and B, KiB, MiB or GiB",
        ),
        (
            "[node]\nmemory = \"1MiB\"",
            "sinew.toml:2:10: node.memory is 1048576 bytes; use 32MiB to 1024GiB",
        ),
        (
            "[node]\ndrain = \"2h\"",
            "sinew.toml:2:9: node.drain is 7200000ms; use 0ms to 600000ms",
        ),
        (
            "[node]\ndata = 5",
            "sinew.toml:2:8: invalid type: integer `5`, expected path string",
        ),
        (
            "[control]\naddress = \"here\"",
            "sinew.toml:2:11: this is not an address to listen on",
        ),
        (
            "[control]\naddress = \"0.0.0.0:7070\"",
            "sinew.toml:2:11: the control API cannot listen",
        ),
        (
            "[gateway]\naddress = \"0.0.0.0:7070\"",
            "sinew.toml:2:11: the gateway (0.0.0.0:7070) and",
        ),
        (
            "[gateway.tls]\naddress = \"0.0.0.0:8080\"\ncertificates = []",
            "sinew.toml:2:11: TLS (0.0.0.0:8080) and the gateway",
        ),
        (
            "[gateway.tls]",
            "sinew.toml:1:1: it needs a [[gateway.tls.certificates]]",
        ),
        (
            "[[gateway.tls.certificates]]\ncert = \"/absent.pem\"\nkey = \"/absent.key\"",
            "sinew.toml:2:8: /absent.pem cannot be read",
        ),
        (
            "[[gateway.upstream_tls]]\nservice = \"orders\"\nca = \"/absent.pem\"",
            "sinew.toml:3:6: /absent.pem cannot be read",
        ),
        (
            "[[routes]]\npath = \"/**\"\nservice = \"a\"\nauth = [\"client_certificate\"]",
            "sinew.toml:4:8: the route asks for auth = [\"client_certificate\"]",
        ),
        (
            "[gateway]\nthreads = 0",
            "sinew.toml:2:11: gateway.threads is 0; use 1 to 1024",
        ),
        (
            "[gateway.limits]\nx = 0",
            "sinew.toml:2:1: unknown field `x`, expected one of `head_",
        ),
        (
            "[engines]\nkv = \"etcd:/a\"",
            // Which of the two depends on what the build has.
            if cfg!(feature = "etcd") {
                "sinew.toml:2:6: an engine's URL has the shape scheme://host:port"
            } else {
                "sinew.toml:2:6: this build has no etcd engine"
            },
        ),
        (
            "[engines]\nkv = \"foo\"",
            "sinew.toml:2:6: \"foo\" is not the URL of a key-value engine",
        ),
        (
            "[registry]\ndefault_ttl = \"1ms\"",
            "sinew.toml:2:15: registry.default_ttl is 1ms; use 1000ms",
        ),
        (
            "[registry]\ninstances = 10",
            "sinew.toml:1:1: registry.instances_per_service is 1000; use 1 to 10",
        ),
        (
            "[registry.eureka]\naddress = \"8761\"",
            "sinew.toml:2:11: this is not an address to listen on; write IP:PORT",
        ),
        (
            "[registry.eureka]\ncleartext = true",
            "sinew.toml:1:1: missing field `address`",
        ),
        (
            "[documents]\nversions = 1",
            "sinew.toml:2:12: documents.versions is 1; use 2 to 10000",
        ),
        (
            "[documents]\nhistory = \"1KiB\"",
            "sinew.toml:2:11: documents.history is 1024 bytes; use 1MiB to 1024GiB",
        ),
        (
            &jwt,
            "sinew.toml:5:8: \"http://users/.well-known/jwks.json\" is not a path of a service",
        ),
        (
            &jwt_slow,
            "sinew.toml:6:11: auth.jwt.refresh is 7200000ms; use 1s to 1h",
        ),
        (
            &auth,
            "sinew.toml:4:8: the route asks for auth = [\"jwt\"], and there is no [auth.jwt]",
        ),
        (
            &unknown_auth,
            "sinew.toml:4:9: unknown variant `ldap`, expected `jwt`",
        ),
        (&twice, "sinew.toml:5:1: "),
        (&strip, "sinew.toml:5:1: "),
        (
            "[[upstreams]]\nservice = \"a\"\n\n[[upstreams]]\nservice = \"a\"",
            "sinew.toml:4:1: upstreams 1 and 2 are both for service a",
        ),
        (
            "[[upstreams]]\nservice = \"a\"\nbulkhead = { queue = 5 }",
            "sinew.toml:1:1: upstream 1 (a): bulkhead needs `requests`, `per_instance` or both",
        ),
        (
            "[[upstreams]]\nservice = \"a\"\nejection.on = [\"down\"]",
            "sinew.toml:3:15: \"down\" is no condition: use \"connect\"",
        ),
        (bad_path, "sinew.toml:2:8: \"a/**\" is not a route's path"),
        (
            "[[routes]]\npath = \"/a\"\nservice = \"a\"\nsources = [\"10.0.0.1/8\"]",
            "sinew.toml:4:11: \"10.0.0.1/8\" is not a range of addresses: bits beyond",
        ),
        (
            "[[routes]]\npath = \"/a\"\nservice = \"a\"\nheaders = [{ name = \"x\", is = \"1\" }]",
            "sinew.toml:4:26: unknown field `is`, expected one of `name`, `exact`",
        ),
        (
            "[[routes]]\npath = \"/a\"\nservice = \"a\"\nredirect = { to = \"/b\" }",
            "sinew.toml:1:1: route 1 (/a): a route has one of `service`, `backends`",
        ),
    ];
    for (file, expected) in cases {
        let error = load(file, &[], &[]).expect_err(file);
        assert!(error.code().starts_with("config."), "{error:?}");
        assert!(
            error.message().starts_with(expected),
            "{file}\n{error}\n{expected}"
        );
    }
}

#[test]
fn variables_and_flags_are_named() {
    let error = |environment: &[(&str, &str)], flags: &[_]| {
        load("[control]\naddress = \"127.0.0.1:1\"", environment, flags).unwrap_err()
    };
    let cases = [
        (
            ("SINEW_NODE_DRAIN", "x"),
            "SINEW_NODE_DRAIN: \"x\" is not a time",
        ),
        (
            ("SINEW_NODE_DRIAN", "5s"),
            "SINEW_NODE_DRIAN: unknown field `drian`, expected",
        ),
        (
            ("SINEW_GATEWAY_THREADS", "many"),
            "SINEW_GATEWAY_THREADS: invalid type: string \"many\", expected a whole number",
        ),
        (
            ("SINEW_CONTROL_ADDRESS", "10.0.0.1:1"),
            "SINEW_CONTROL_ADDRESS: the control API cannot",
        ),
        (
            ("SINEW_AUTH_JWT_ISSUER", "shop"),
            "missing field `audience`",
        ),
    ];
    for (variable, expected) in cases {
        let error = error(&[variable], &[]);
        assert!(error.message().starts_with(expected), "{error}");
    }
    let flag = [("--gateway", "gateway.address", "8080")];
    let message = error(&[("SINEW_GATEWAY_ADDRESS", "127.0.0.1:9")], &flag)
        .message()
        .to_owned();
    assert!(
        message.starts_with("--gateway: this is not an address to listen on"),
        "{message}"
    );
}

#[test]
fn a_named_file_must_exist() {
    let sources = Sources {
        file: Some("/does/not/exist.toml".into()),
        ..Sources::default()
    };
    assert_eq!(
        Config::load(sources).unwrap_err().code(),
        "config.unreadable"
    );
}

#[test]
fn a_dialect_listens_beyond_this_machine_only_when_that_is_said() {
    assert_eq!(load("", &[], &[]).unwrap().eureka, None);
    let local = "[registry.eureka]\naddress = \"127.0.0.1:8761\"";
    let eureka = load(local, &[], &[]).unwrap().eureka.unwrap();
    assert_eq!((eureka.address.port(), eureka.cleartext), (8761, false));
    let everywhere = [("SINEW_REGISTRY_EUREKA_ADDRESS", "0.0.0.0:8761")];
    let error = load(local, &everywhere, &[]).unwrap_err();
    assert_eq!(error.code(), "config.dialect_exposed");
    let begin = "SINEW_REGISTRY_EUREKA_ADDRESS: 0.0.0.0:8761 is not of this machine alone";
    assert!(error.message().starts_with(begin), "{}", error.message());
    let meant = format!("{local}\ncleartext = true");
    let eureka = load(&meant, &everywhere, &[]).unwrap().eureka.unwrap();
    assert!(eureka.cleartext && eureka.address.ip().is_unspecified());
}

#[test]
fn consul_clients_are_listened_to_where_it_is_said() {
    assert_eq!(load("", &[], &[]).unwrap().consul, None);
    let local = "[registry.consul]\naddress = \"127.0.0.1:8500\"";
    let consul = load(local, &[], &[]).unwrap().consul.unwrap();
    assert_eq!((&*consul.datacenter, &*consul.node), ("dc1", "sinew"));
    let everywhere = [("SINEW_REGISTRY_CONSUL_ADDRESS", "0.0.0.0:8500")];
    let error = load(local, &everywhere, &[]).unwrap_err();
    assert_eq!(error.code(), "config.dialect_exposed");
    let odd = format!("{local}\ndatacenter = \"a b\"");
    let error = load(&odd, &[], &[]).unwrap_err();
    let begin = "sinew.toml:3:14: \"a b\" is not a name";
    assert!(error.message().starts_with(begin), "{}", error.message());
}
