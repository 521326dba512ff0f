//! Prometheus' text format, as far as the node writes it.

use std::collections::BTreeMap;

/// Series by name and labels.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    series: BTreeMap<String, Vec<Series>>,
}

#[derive(Debug)]
pub(super) struct Series {
    labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Series {
    /// Empty when there is no such label, which means the same in this format.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Exposition {
    /// Lines that are none of the format's are passed over.
    pub(super) fn read(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, series)) = read_line(line) {
                match all.series.get_mut(name) {
                    Some(list) => list.push(series),
                    None => {
                        all.series.insert(name.to_owned(), vec![series]);
                    }
                }
            }
        }
        all
    }

    /// All series of the gateway's with this name.
    pub(super) fn gateway(&self, name: &str) -> &[Series] {
        let series = self.series.get(&format!("sinew_gateway_{name}"));
        series.map_or(&[], Vec::as_slice)
    }
}

fn read_line(line: &str) -> Option<(&str, Series)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = Vec::new();
    let rest = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest, &mut labels)?,
        None => rest,
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, Series { labels, value }))
}

/// Reads up to the closing brace and answers what comes after it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Vec<(String, String)>) -> Option<&'a str> {
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some(rest);
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next()?.1 {
                '"' => break,
                '\\' => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        labels.push((name.to_owned(), value));
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_read() {
        let text = "# HELP sinew_gateway_x Something.\nsinew_gateway_x{route=\"a\\\"}\\\\\\n\",service=\"s\"} 3\n\
                    sinew_gateway_x{} 0.5\nsinew_gateway_y 7\n\nnonsense\nbroken{a=\"b 1\n";
        let all = Exposition::read(text);
        let x = all.gateway("x");
        assert_eq!(
            (x[0].label("route"), x[0].label("service")),
            ("a\"}\\\n", "s")
        );
        assert_eq!(
            (x[0].value, x[1].value, x[1].label("route")),
            (3.0, 0.5, "")
        );
        assert_eq!(all.gateway("y")[0].value, 7.0);
        assert!(all.gateway("z").is_empty());
    }
}
