use super::*;

struct Lines(&'static [(&'static str, &'static str)]);

impl HeaderLines for Lines {
    fn every(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut named = self
            .0
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.all(|(_, value)| see(value.as_bytes()))
    }
}

fn conditions(toml: &str) -> Result<Box<Conditions>, Vec<String>> {
    let text = format!("path = \"/\"\nservice = \"a\"\n{toml}");
    let route: Route = toml::from_str(&text).unwrap();
    let mut faults = Vec::new();
    let conditions = Conditions::compile(&route, &mut faults);
    if faults.is_empty() {
        Ok(conditions.unwrap())
    } else {
        Err(faults)
    }
}

fn asked<'a>(query: &'a str, fields: &'a dyn HeaderLines) -> Question<'a> {
    Question {
        host: "a",
        path: "/",
        query,
        method: "GET",
        source: IpAddr::from([10, 1, 2, 3]),
        fields,
    }
}

#[test]
fn each_condition_holds_or_not() {
    let lines = Lines(&[
        ("X-One", "1"),
        ("x-two", "2"),
        ("X-TWO", "3"),
        ("Cookie", "a=1; b=; split=x=y"),
    ]);
    let query = "?q=1&q=1&%62eta=a+b%21&flag&t=1&t=2";
    for (toml, holds) in [
        (r#"methods = ["GET", "PUT"]"#, true),
        (r#"methods = ["PUT"]"#, false),
        (r#"headers = [{ name = "x-one" }]"#, true),
        (r#"headers = [{ name = "x-one", exact = "1" }]"#, true),
        (r#"headers = [{ name = "x-one", exact = "12" }]"#, false),
        (r#"headers = [{ name = "x-one", regex = "\\d" }]"#, true),
        (r#"headers = [{ name = "x-one", regex = "" }]"#, false),
        (r#"headers = [{ name = "x-one", present = false }]"#, false),
        (r#"headers = [{ name = "x-no", present = false }]"#, true),
        (r#"headers = [{ name = "x-no", present = true }]"#, false),
        (r#"headers = [{ name = "x-two", exact = "2" }]"#, false),
        (r#"headers = [{ name = "x-two", regex = "[23]" }]"#, true),
        (r#"cookies = [{ name = "a", exact = "1" }]"#, true),
        (
            r#"cookies = [{ name = "b" }, { name = "split", exact = "x=y" }]"#,
            true,
        ),
        (r#"cookies = [{ name = "A" }]"#, false),
        (r#"query = [{ name = "q", exact = "1" }]"#, true),
        (r#"query = [{ name = "t", exact = "1" }]"#, false),
        (r#"query = [{ name = "t", regex = "[12]" }]"#, true),
        (r#"query = [{ name = "beta", exact = "a b!" }]"#, true),
        (
            r#"query = [{ name = "flag" }, { name = "none", present = false }]"#,
            true,
        ),
        (r#"query = [{ name = "beta", present = false }]"#, false),
        (r#"sources = ["10.0.0.0/8"]"#, true),
        (r#"sources = ["192.168.0.0/16", "::/0"]"#, false),
        (r#"sources = ["10.1.2.3"]"#, true),
    ] {
        let conditions = conditions(toml).unwrap();
        assert_eq!(conditions.hold(&asked(query, &lines)), holds, "{toml}");
    }
}

#[test]
fn bad_conditions_are_refused() {
    for (toml, part) in [
        (r#"methods = ["get"]"#, "capitals"),
        (r#"methods = ["CONNECT"]"#, "do not pass"),
        (r#"headers = [{ name = "a b" }]"#, "no name"),
        (
            r#"headers = [{ name = "x-auth-role", exact = "admin" }]"#,
            "never counts",
        ),
        (r#"headers = [{ name = "X_Real_Ip" }]"#, "never counts"),
        (r#"headers = [{ name = "Host" }]"#, "host = "),
        (
            r#"query = [{ name = "q", exact = "1", regex = "1" }]"#,
            "one of",
        ),
        (
            r#"query = [{ name = "q", regex = "(" }]"#,
            "query parameter q",
        ),
    ] {
        let faults = conditions(toml).unwrap_err().join("; ");
        assert!(faults.contains(part), "{toml}: {faults}");
    }
}

#[test]
fn exclusion_is_told_where_it_can_be() {
    for (one, other, excluded) in [
        (r#"methods = ["GET"]"#, r#"methods = ["PUT"]"#, true),
        (r#"methods = ["GET"]"#, r#"methods = ["PUT", "GET"]"#, false),
        (
            r#"sources = ["10.0.0.0/8"]"#,
            r#"sources = ["11.0.0.0/8", "::1"]"#,
            true,
        ),
        (
            r#"sources = ["10.0.0.0/8"]"#,
            r#"sources = ["10.1.0.0/16"]"#,
            false,
        ),
        (
            r#"headers = [{ name = "a" }]"#,
            r#"headers = [{ name = "A", present = false }]"#,
            true,
        ),
        (
            r#"headers = [{ name = "a", exact = "1" }]"#,
            r#"headers = [{ name = "a", exact = "2" }]"#,
            true,
        ),
        (
            r#"headers = [{ name = "a", exact = "1" }]"#,
            r#"headers = [{ name = "a", regex = "[a-z]" }]"#,
            true,
        ),
        (
            r#"headers = [{ name = "a", exact = "1" }]"#,
            r#"headers = [{ name = "b", exact = "2" }]"#,
            false,
        ),
        (
            r#"query = [{ name = "a", regex = "1" }]"#,
            r#"query = [{ name = "a", regex = "2" }]"#,
            false,
        ),
    ] {
        let (one, other) = (conditions(one).unwrap(), conditions(other).unwrap());
        assert_eq!(one.exclude(&other), excluded, "{one:?} {other:?}");
        assert_eq!(other.exclude(&one), excluded, "{one:?} {other:?}");
    }
}

#[test]
fn ranges_are_read_and_hold_addresses() {
    for (range, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ("0.0.0.0/0", "1.2.3.4", "::1"),
        ("2001:db8::/32", "2001:db8:1::1", "2001:db9::"),
        ("::1", "::1", "::2"),
        ("192.168.1.7/32", "192.168.1.7", "192.168.1.6"),
    ] {
        let range: AddressRange = range.parse().unwrap();
        assert!(range.contains(inside.parse().unwrap()), "{range}");
        assert!(!range.contains(outside.parse().unwrap()), "{range}");
        assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
    }
    for bad in [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::/129",
        "a/8",
        "10.0.0.0/",
    ] {
        assert!(AddressRange::parse(bad).is_err(), "{bad}");
    }
}
