//! Typed settings from environment variables that share a prefix.

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, IntoDeserializer, MapAccess, Visitor},
    forward_to_deserialize_any,
};
use sinew_core::{Error, Kind, Result};

use crate::Environment;

/// Reads `T` from the process's environment: field `decline_rate` from `<prefix>_DECLINE_RATE`.
///
/// Fields are numbers, strings, `bool` (`true`, `false`, `1`, `0`), unit enums, `Option`, or `Vec`
/// of these (separated by commas). Absent variables take the field's serde default
/// (`#[serde(default)]`); variables that no field has are passed over.
///
/// Errors: `sdk.config_invalid` names the variable and what is wrong with it.
pub fn config<T: DeserializeOwned>(prefix: &str) -> Result<T> {
    read(prefix, &Environment::of_process())
}

pub(crate) fn read<T: DeserializeOwned>(prefix: &str, environment: &Environment) -> Result<T> {
    let prefix = format!("{}_", prefix.trim_end_matches('_'));
    let fields = environment
        .below(&prefix)
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect::<Vec<_>>();
    let fields = Fields {
        prefix: &prefix,
        entries: fields.into_iter(),
        value: None,
    };
    T::deserialize(Root(fields)).map_err(|Fault(reason)| {
        // Serde names fields as the code does; people know the variable.
        let reason = match reason.strip_prefix("missing field `") {
            Some(rest) => format!(
                "the environment variable {prefix}{} is missing",
                rest.trim_end_matches('`').to_ascii_uppercase()
            ),
            None => reason,
        };
        Error::new(Kind::InvalidArgument, "sdk.config_invalid", reason)
    })
}

struct Root<'a>(Fields<'a>);

struct Fields<'a> {
    prefix: &'a str,
    entries: std::vec::IntoIter<(String, String)>,
    value: Option<(String, String)>,
}

impl<'de> Deserializer<'de> for Root<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((name, value)) = self.entries.next() else {
            return Ok(None);
        };
        let key = seed.deserialize(name.as_str().into_deserializer())?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (name, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Text(&value)).map_err(|Fault(reason)| {
            Fault(format!(
                "the environment variable {}{} cannot be used: {reason}",
                self.prefix,
                name.to_ascii_uppercase()
            ))
        })
    }
}

/// One value, read as whatever type is asked for. The value itself is not quoted in errors: it may
/// be a secret.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Text<'_> {
    fn parse<T: std::str::FromStr>(&self, what: &str) -> Result<T, Fault> {
        self.0
            .parse()
            .map_err(|_| Fault(format!("it is not {what}")))
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $what:literal),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit(self.parse($what)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            "true" | "1" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            _ => Err(Fault("it is neither true nor false".into())),
        }
    }

    parsed! {
        deserialize_i8 visit_i8 "a whole number from -128 to 127",
        deserialize_i16 visit_i16 "a whole number from -32768 to 32767",
        deserialize_i32 visit_i32 "a whole number that fits 32 bits",
        deserialize_i64 visit_i64 "a whole number that fits 64 bits",
        deserialize_u8 visit_u8 "a whole number from 0 to 255",
        deserialize_u16 visit_u16 "a whole number from 0 to 65535",
        deserialize_u32 visit_u32 "a whole number from 0 that fits 32 bits",
        deserialize_u64 visit_u64 "a whole number from 0 that fits 64 bits",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number",
        deserialize_char visit_char "one character"
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items: Vec<Text<'_>> = self.0.split(',').map(|item| Text(item.trim())).collect();
        visitor.visit_seq(de::value::SeqDeserializer::new(items.into_iter()))
    }

    forward_to_deserialize_any! {
        i128 u128 str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Fault> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[derive(Debug)]
pub(crate) struct Fault(pub(crate) String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default, rename_all = "snake_case")]
    struct Settings {
        decline_permille: u16,
        outage: bool,
        rate: f64,
        name: Option<String>,
        peers: Vec<u8>,
        mode: Mode,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Fast,
        VerySafe,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self {
                decline_permille: 50,
                outage: false,
                rate: 0.5,
                name: None,
                peers: vec![],
                mode: Mode::Fast,
            }
        }
    }

    #[test]
    fn fields_come_from_variables_and_the_rest_from_defaults() {
        let environment = Environment::default()
            .with("SHOP_DECLINE_PERMILLE", "7")
            .with("SHOP_OUTAGE", "true")
            .with("SHOP_NAME", "x")
            .with("SHOP_PEERS", "1, 2")
            .with("SHOP_MODE", "very_safe")
            .with("SHOP_UNKNOWN", "whatever")
            .with("OTHER_RATE", "9");
        let settings: Settings = read("SHOP", &environment).unwrap();
        assert_eq!(
            settings,
            Settings {
                decline_permille: 7,
                outage: true,
                rate: 0.5,
                name: Some("x".into()),
                peers: vec![1, 2],
                mode: Mode::VerySafe,
            }
        );
    }

    #[test]
    fn errors_name_the_variable_and_keep_its_value() {
        for (name, value) in [
            ("SHOP_DECLINE_PERMILLE", "sekret"),
            ("SHOP_OUTAGE", "sekret"),
            ("SHOP_RATE", "sekret"),
        ] {
            let environment = Environment::default().with(name, value);
            let error = read::<Settings>("SHOP", &environment).unwrap_err();
            assert!(error.message().contains(name), "{error}");
            assert!(!error.message().contains("sekret"), "{error}");
        }
        #[derive(Debug, Deserialize)]
        struct Needed {
            #[expect(dead_code, reason = "only its absence matters")]
            secret_key: String,
        }
        let error = read::<Needed>("SHOP", &Environment::default()).unwrap_err();
        assert!(
            error.message().contains("SHOP_SECRET_KEY is missing"),
            "{error}"
        );
    }
}
