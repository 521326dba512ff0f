//! How Eureka's documents are written: one description, as JSON or as XML.

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Xml,
}

impl Form {
    /// As the original chooses: XML unless the client says `json`.
    pub(super) fn accepted(accept: Option<&[u8]>) -> Self {
        let json = |text: &[u8]| {
            text.windows(4)
                .any(|part| part.eq_ignore_ascii_case(b"json"))
        };
        match accept {
            Some(text) if json(text) => Self::Json,
            _ => Self::Xml,
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "application/xml",
        }
    }
}

/// Writes a document. Names are this module's callers' own, but for those of [`Writer::pair`].
pub(super) struct Writer {
    form: Form,
    out: Vec<u8>,
    /// JSON: the next member of the object is its first.
    first: bool,
}

impl Writer {
    /// A document whose root is `name`.
    pub(super) fn document(
        form: Form,
        name: &'static str,
        fill: impl FnOnce(&mut Self),
    ) -> Vec<u8> {
        let mut writer = Self {
            form,
            out: Vec::with_capacity(1024),
            first: true,
        };
        if form == Form::Json {
            writer.out.push(b'{');
        }
        writer.object(name, fill);
        if form == Form::Json {
            writer.out.push(b'}');
        }
        writer.out
    }

    /// A member that has members.
    pub(super) fn object(&mut self, name: &'static str, fill: impl FnOnce(&mut Self)) {
        self.key(name);
        self.body(name, None, fill);
    }

    /// A member that has members, and a Java class, as clients expect it.
    pub(super) fn classed(
        &mut self,
        name: &'static str,
        class: &'static str,
        fill: impl FnOnce(&mut Self),
    ) {
        self.key(name);
        self.body(name, Some(class), fill);
    }

    /// A list; in XML its items stand beside one another.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) {
        if self.form == Form::Json {
            self.key(name);
            self.out.push(b'[');
        }
        for (at, item) in items.into_iter().enumerate() {
            if self.form == Form::Json && at > 0 {
                self.out.push(b',');
            }
            self.body(name, None, |writer| fill(writer, item));
        }
        if self.form == Form::Json {
            self.out.push(b']');
            self.first = false;
        }
    }

    /// Text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        match self.form {
            Form::Json => self.json_string(value),
            Form::Xml => {
                self.open(name, None);
                self.xml_text(value);
                self.close(name);
            }
        }
    }

    /// Text if there is any.
    pub(super) fn some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.key(name);
        let digits = value.to_string();
        match self.form {
            Form::Json => self.out.extend(digits.bytes()),
            Form::Xml => {
                self.open(name, None);
                self.out.extend(digits.bytes());
                self.close(name);
            }
        }
    }

    /// A port.
    pub(super) fn port(&mut self, name: &str, number: u16, enabled: bool) {
        self.key(name);
        let text = match self.form {
            Form::Json => format!("{{\"$\":{number},\"@enabled\":\"{enabled}\"}}"),
            Form::Xml => format!("<{name} enabled=\"{enabled}\">{number}</{name}>"),
        };
        self.out.extend(text.bytes());
    }

    /// A pair of somebody's metadata: in XML the key is the name of an element.
    pub(super) fn pair(&mut self, key: &str, value: &str) {
        match self.form {
            Form::Json => self.text(key, value),
            Form::Xml => self.text(&element_name(key), value),
        }
    }

    fn body(&mut self, name: &str, class: Option<&str>, fill: impl FnOnce(&mut Self)) {
        match self.form {
            Form::Json => {
                self.out.push(b'{');
                self.first = true;
                if let Some(class) = class {
                    self.text("@class", class);
                }
                fill(self);
                self.out.push(b'}');
                self.first = false;
            }
            Form::Xml => {
                self.open(name, class);
                fill(self);
                self.close(name);
            }
        }
    }

    fn key(&mut self, name: &str) {
        if self.form == Form::Json {
            if !self.first {
                self.out.push(b',');
            }
            self.first = false;
            self.json_string(name);
            self.out.push(b':');
        }
    }

    fn open(&mut self, name: &str, class: Option<&str>) {
        self.out.push(b'<');
        self.out.extend(name.bytes());
        if let Some(class) = class {
            self.out.extend(b" class=\"");
            self.out.extend(class.bytes());
            self.out.push(b'"');
        }
        self.out.push(b'>');
    }

    fn close(&mut self, name: &str) {
        self.out.extend(b"</");
        self.out.extend(name.bytes());
        self.out.push(b'>');
    }

    fn json_string(&mut self, text: &str) {
        serde_json::to_writer(&mut self.out, text).expect("text serialises, and a vector takes it");
    }

    fn xml_text(&mut self, text: &str) {
        let mut buffer = [0; 4];
        for c in text.chars() {
            match c {
                '&' => self.out.extend(b"&amp;"),
                '<' => self.out.extend(b"&lt;"),
                '>' => self.out.extend(b"&gt;"),
                '"' => self.out.extend(b"&quot;"),
                '\r' => self.out.extend(b"&#xd;"),
                '\t' | '\n' => self.out.push(c as u8),
                // XML 1.0 has no way to say these at all.
                '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => {
                    self.out.extend('\u{fffd}'.encode_utf8(&mut buffer).bytes());
                }
                c => self.out.extend(c.encode_utf8(&mut buffer).bytes()),
            }
        }
    }
}

/// A key as the name of an element. What cannot stand in a name is said as `_.` and the character's
/// four hexadecimal digits, as XStream does. Underscores stay single, though XStream would double them:
/// readers that are not XStream would take that for the key.
fn element_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for c in key.chars() {
        let starts = c.is_ascii_alphabetic() || c == '_';
        let continues = starts || c.is_ascii_digit() || c == '-' || c == '.';
        if starts || (continues && !name.is_empty()) {
            name.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                name.push_str(&format!("_.{unit:04x}"));
            }
        }
    }
    if name.is_empty() {
        "_".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(form: Form) -> String {
        let bytes = Writer::document(form, "instance", |w| {
            w.text("app", "A<\"&\u{1}");
            w.port("port", 8080, true);
            w.some("asgName", None);
            w.number("countryId", 1);
            w.classed("dataCenterInfo", "some.Class$Inner", |w| {
                w.text("name", "MyOwn")
            });
            w.list("item", [1, 2], |w, n| w.number("n", n));
            w.list("none", [0; 0], |w, n| w.number("n", n));
            w.object("metadata", |w| {
                w.pair("management.port", "1");
                w.pair("a b:c", "2");
                w.pair("1_x", "3");
            });
        });
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_description_makes_both_forms() {
        assert_eq!(
            sample(Form::Json),
            r#"{"instance":{"app":"A<\"&\u0001","port":{"$":8080,"@enabled":"true"},"countryId":1,"#
                .to_owned()
                + r#""dataCenterInfo":{"@class":"some.Class$Inner","name":"MyOwn"},"#
                + r#""item":[{"n":1},{"n":2}],"none":[],"#
                + r#""metadata":{"management.port":"1","a b:c":"2","1_x":"3"}}}"#
        );
        assert_eq!(
            sample(Form::Xml),
            "<instance><app>A&lt;&quot;&amp;\u{fffd}</app><port enabled=\"true\">8080</port>\
             <countryId>1</countryId><dataCenterInfo class=\"some.Class$Inner\"><name>MyOwn</name>\
             </dataCenterInfo><item><n>1</n></item><item><n>2</n></item>\
             <metadata><management.port>1</management.port><a_.0020b_.003ac>2</a_.0020b_.003ac>\
             <_.0031_x>3</_.0031_x></metadata></instance>"
        );
    }

    #[test]
    fn xml_unless_json_is_asked_for() {
        for json in ["application/json", "application/*+JSON, */*"] {
            assert_eq!(Form::accepted(Some(json.as_bytes())), Form::Json);
        }
        for xml in [None, Some("*/*"), Some("application/xml"), Some("js")] {
            assert_eq!(Form::accepted(xml.map(str::as_bytes)), Form::Xml);
        }
    }
}
