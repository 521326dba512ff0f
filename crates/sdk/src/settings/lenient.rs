//! JSON into types, where texts pass for numbers, `bool` and lists: contents written as properties have
//! nothing but texts. Errors name the setting and not its value.

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use crate::config::{Fault, Text};

/// Reads `T`; the error is a reason.
pub(super) fn read<T: DeserializeOwned>(document: &Value) -> Result<T, String> {
    T::deserialize(Lenient(document)).map_err(|Fault(reason)| reason)
}

struct Lenient<'a>(&'a Value);

impl Lenient<'_> {
    /// serde's own words for a wrong type quote the value.
    fn wrong(&self, expected: &str) -> Fault {
        let is = match self.0 {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a table",
        };
        Fault(format!("it is {is}, and not {expected}"))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.0 {
                Value::String(text) => Text(text).$method(visitor),
                Value::Number(number) => {
                    let number: $type = serde_json::from_value(Value::Number(number.clone()))
                        .map_err(|_| Fault(concat!("it does not fit ", stringify!($type)).into()))?;
                    visitor.$visit(number)
                }
                _ => Err(self.wrong("a number")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (_, Some(number)) => visitor.visit_i64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => Text(text).deserialize_bool(visitor),
            _ => Err(self.wrong("true or false")),
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_str(text),
            // `version: 1.0` is meant as a text where one is wanted.
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(value) => visitor.visit_string(value.to_string()),
            _ => Err(self.wrong("a text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Array(values) => visitor.visit_seq(Items(values.iter().enumerate())),
            Value::String(text) => Text(text).deserialize_seq(visitor),
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Object(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
            _ => Err(self.wrong("a table")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let read = self.0.clone().deserialize_enum(name, variants, visitor);
        read.map_err(|_| Fault(format!("it is none of {}", variants.join(", "))))
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Value>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((index, value)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Lenient(value));
        read.map(Some)
            .map_err(|fault| within(&format!("[{index}]"), fault))
    }
}

struct Entries<'a> {
    entries: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((name, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((name, value));
        seed.deserialize(name.as_str().into_deserializer())
            .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (name, value) = self
            .value
            .take()
            .ok_or_else(|| <Fault as de::Error>::custom("a value without a key"))?;
        seed.deserialize(Lenient(value))
            .map_err(|fault| within(name, fault))
    }
}

/// Puts a place before the reason: `server.ports[0]: it is not …`.
fn within(place: &str, Fault(reason): Fault) -> Fault {
    let is_place = reason
        .split(": ")
        .next()
        .is_some_and(|head| !head.contains(' '));
    Fault(
        match (is_place && reason.contains(": "), reason.starts_with('[')) {
            (true, true) => format!("{place}{reason}"),
            (true, false) => format!("{place}.{reason}"),
            (false, _) => format!("{place}: {reason}"),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct All {
        port: u16,
        rate: f64,
        on: bool,
        name: String,
        maybe: Option<i64>,
        list: Vec<u8>,
        table: BTreeMap<String, Inner>,
        mode: Mode,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Inner {
        depth: u8,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Fast,
        VerySafe,
    }

    #[test]
    fn texts_pass_for_what_is_wanted() {
        let typed = json!({"port": 80, "rate": 1, "on": true, "name": 1.5, "maybe": -3, "list": [1, "2"],
            "table": {"a": {"depth": 1}}, "mode": "very_safe", "other": [{"x": null}]});
        let texts = json!({"port": "80", "rate": "1.0", "on": "true", "name": "1.5", "maybe": "-3", "list": "1, 2",
            "table": {"a": {"depth": "1"}}, "mode": "very_safe"});
        let expected = All {
            port: 80,
            rate: 1.0,
            on: true,
            name: "1.5".into(),
            maybe: Some(-3),
            list: vec![1, 2],
            table: [("a".into(), Inner { depth: 1 })].into(),
            mode: Mode::VerySafe,
        };
        assert_eq!(read::<All>(&typed), Ok(expected));
        assert_eq!(read::<All>(&texts).unwrap().table.len(), 1);
        assert_eq!(read::<All>(&json!({})), Ok(All::default()));
    }

    #[test]
    fn reasons_name_the_setting_and_keep_its_value() {
        for (document, place) in [
            (json!({"port": "sekret"}), "port: "),
            (json!({"port": 70000}), "port: it does not fit u16"),
            (json!({"list": [1, "sekret"]}), "list[1]: "),
            (
                json!({"table": {"a": {"depth": "sekret"}}}),
                "table.a.depth: ",
            ),
            (
                json!({"table": "sekret"}),
                "table: it is a text, and not a table",
            ),
            (
                json!({"mode": "sekret"}),
                "mode: it is none of fast, very_safe",
            ),
        ] {
            let reason = read::<All>(&document).unwrap_err();
            assert!(reason.starts_with(place), "{reason}");
            assert!(!reason.contains("sekret"), "{reason}");
        }
    }
}
