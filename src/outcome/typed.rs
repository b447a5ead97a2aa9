//! Outputs from a type of the handler's own: a struct whose fields are scalars.
//!
//! By way of `serde_json::Value`, an `f32` would get the digits of the double nearest to it, NaN
//! would be null, and of two fields with one name the second would win.

use serde::Serialize;
use serde::ser::{self, Impossible, SerializeMap, SerializeStruct, Serializer};

use super::{InvalidOutput, Outputs};

type Refused<Ok> = Impossible<Ok, InvalidOutput>;

/// The outputs that the fields of `value` are.
pub(super) fn outputs(value: &(impl Serialize + ?Sized)) -> Result<Outputs, InvalidOutput> {
    value.serialize(Whole)
}

impl ser::Error for InvalidOutput {
    fn custom<T: std::fmt::Display>(error: T) -> Self {
        Self::Unserialisable(error.to_string())
    }
}

/// Methods of a [`Serializer`] that refuse what they are given, by the name of its kind.
macro_rules! refuse {
    ($($method:ident($($given:ty),*) -> $done:ty, $kind:literal;)*) => {
        $(fn $method(self $(, _: $given)*) -> Result<$done, InvalidOutput> {
            Err(self.refusal($kind))
        })*
    };
}

/// Methods of a [`Serializer`] for what is around a value: an option and a newtype are looked
/// through.
macro_rules! wrapped {
    ($done:ty) => {
        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<$done, InvalidOutput> {
            value.serialize(self)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<$done, InvalidOutput> {
            value.serialize(self)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<$done, InvalidOutput> {
            Err(self.refusal("an enum variant with content"))
        }
    };
}

/// Takes a struct or a map.
struct Whole;

impl Whole {
    #[expect(clippy::unused_self, reason = "the macro calls it on both serializers")]
    fn refusal(self, kind: &'static str) -> InvalidOutput {
        InvalidOutput::NotObject(kind)
    }
}

impl Serializer for Whole {
    type Ok = Outputs;
    type Error = InvalidOutput;
    type SerializeSeq = Refused<Outputs>;
    type SerializeTuple = Refused<Outputs>;
    type SerializeTupleStruct = Refused<Outputs>;
    type SerializeTupleVariant = Refused<Outputs>;
    type SerializeMap = Fields;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Refused<Outputs>;

    fn serialize_map(self, _: Option<usize>) -> Result<Fields, InvalidOutput> {
        Ok(Fields::default())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields, InvalidOutput> {
        Ok(Fields::default())
    }

    fn serialize_unit(self) -> Result<Outputs, InvalidOutput> {
        Ok(Outputs::new())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Outputs, InvalidOutput> {
        Ok(Outputs::new())
    }

    fn serialize_none(self) -> Result<Outputs, InvalidOutput> {
        Ok(Outputs::new())
    }

    wrapped! { Outputs }

    refuse! {
        serialize_bool(bool) -> Outputs, "a boolean";
        serialize_i8(i8) -> Outputs, "a number";
        serialize_i16(i16) -> Outputs, "a number";
        serialize_i32(i32) -> Outputs, "a number";
        serialize_i64(i64) -> Outputs, "a number";
        serialize_i128(i128) -> Outputs, "a number";
        serialize_u8(u8) -> Outputs, "a number";
        serialize_u16(u16) -> Outputs, "a number";
        serialize_u32(u32) -> Outputs, "a number";
        serialize_u64(u64) -> Outputs, "a number";
        serialize_u128(u128) -> Outputs, "a number";
        serialize_f32(f32) -> Outputs, "a number";
        serialize_f64(f64) -> Outputs, "a number";
        serialize_char(char) -> Outputs, "a string";
        serialize_str(&str) -> Outputs, "a string";
        serialize_bytes(&[u8]) -> Outputs, "an array";
        serialize_unit_variant(&'static str, u32, &'static str) -> Outputs, "a string";
        serialize_seq(Option<usize>) -> Refused<Outputs>, "an array";
        serialize_tuple(usize) -> Refused<Outputs>, "an array";
        serialize_tuple_struct(&'static str, usize) -> Refused<Outputs>, "an array";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Refused<Outputs>,
            "an enum variant with content";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Refused<Outputs>,
            "an enum variant with content";
    }
}

/// The outputs so far.
#[derive(Default)]
struct Fields {
    outputs: Outputs,
    /// The key of a map whose value comes next.
    key: String,
}

impl Fields {
    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), InvalidOutput> {
        let text = value.serialize(Scalar { name }).map_err(|error| match error {
            InvalidOutput::Unserialisable(why) => {
                InvalidOutput::Unserialisable(format!("`{name}`: {why}"))
            }
            other => other,
        })?;
        self.outputs.insert(name, text)
    }
}

impl SerializeStruct for Fields {
    type Ok = Outputs;
    type Error = InvalidOutput;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), InvalidOutput> {
        self.add(name, value)
    }

    fn end(self) -> Result<Outputs, InvalidOutput> {
        Ok(self.outputs)
    }
}

impl SerializeMap for Fields {
    type Ok = Outputs;
    type Error = InvalidOutput;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), InvalidOutput> {
        let no_name = |_| InvalidOutput::Unserialisable("a name is not a string".to_owned());
        self.key = key.serialize(Scalar { name: "" }).map_err(no_name)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InvalidOutput> {
        let name = std::mem::take(&mut self.key);
        self.add(&name, value)
    }

    fn end(self) -> Result<Outputs, InvalidOutput> {
        Ok(self.outputs)
    }
}

/// Takes the value of one output, and makes it the text that is sent.
struct Scalar<'a> {
    name: &'a str,
}

impl Scalar<'_> {
    fn refusal(self, kind: &'static str) -> InvalidOutput {
        InvalidOutput::NotScalar(self.name.to_owned(), kind)
    }
}

/// Methods of a [`Serializer`] whose value is written as Rust displays it.
macro_rules! displayed {
    ($($method:ident($given:ty);)*) => {
        $(fn $method(self, value: $given) -> Result<String, InvalidOutput> {
            Ok(value.to_string())
        })*
    };
}

/// Methods of a [`Serializer`] for floats: the shortest text that reads back as the same value.
macro_rules! float {
    ($($method:ident($given:ty);)*) => {
        $(fn $method(self, value: $given) -> Result<String, InvalidOutput> {
            // There is one zero.
            let value = if value == 0.0 { 0.0 } else { value };
            let finite = value.is_finite().then(|| format!("{value:?}"));
            finite.ok_or_else(|| InvalidOutput::NotFinite(self.name.to_owned()))
        })*
    };
}

impl Serializer for Scalar<'_> {
    type Ok = String;
    type Error = InvalidOutput;
    type SerializeSeq = Refused<String>;
    type SerializeTuple = Refused<String>;
    type SerializeTupleStruct = Refused<String>;
    type SerializeTupleVariant = Refused<String>;
    type SerializeMap = Refused<String>;
    type SerializeStruct = Refused<String>;
    type SerializeStructVariant = Refused<String>;

    displayed! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
    }

    float! {
        serialize_f32(f32);
        serialize_f64(f64);
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<String, InvalidOutput> {
        Ok(variant.to_owned())
    }

    wrapped! { String }

    refuse! {
        serialize_none() -> String, "null";
        serialize_unit() -> String, "null";
        serialize_unit_struct(&'static str) -> String, "null";
        serialize_bytes(&[u8]) -> String, "an array";
        serialize_seq(Option<usize>) -> Refused<String>, "an array";
        serialize_tuple(usize) -> Refused<String>, "an array";
        serialize_tuple_struct(&'static str, usize) -> Refused<String>, "an array";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Refused<String>,
            "an enum variant with content";
        serialize_map(Option<usize>) -> Refused<String>, "an object";
        serialize_struct(&'static str, usize) -> Refused<String>, "an object";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Refused<String>,
            "an enum variant with content";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Verdict {
        Accepted,
        Improved { by: f64 },
        Moved(u8),
        Pair(u8, u8),
    }

    #[derive(Serialize)]
    struct Id(u64);

    #[derive(Serialize)]
    struct Nested {
        inner: u8,
    }

    /// What one field of a struct becomes.
    fn one(value: impl Serialize) -> Result<String, InvalidOutput> {
        #[derive(Serialize)]
        struct Holder<T> {
            field: T,
        }

        let outputs = outputs(&Holder { field: value })?;
        Ok(outputs.get("field").expect("it is there").to_owned())
    }

    #[test]
    fn every_scalar_is_written_as_it_reads() {
        for (text, wants) in [
            (one("text"), "text"),
            (one('ä'), "ä"),
            (one(true), "true"),
            (one(-7_i8), "-7"),
            (one(u128::MAX), "340282366920938463463374607431768211455"),
            (one(0.1_f32), "0.1"),
            (one(0.1_f64), "0.1"),
            (one(1.0_f64), "1.0"),
            (one(-0.0_f64), "0.0"),
            (one(Some(3)), "3"),
            (one(Id(7)), "7"),
            (one(Verdict::Accepted), "accepted"),
        ] {
            assert_eq!(text.as_deref(), Ok(wants));
        }
    }

    #[test]
    fn what_is_no_scalar_is_refused_with_the_name_of_its_field() {
        for (refused, wants) in [
            (one(None::<u8>), "`field` is null"),
            (one(()), "`field` is null"),
            (one([1, 2]), "`field` is an array"),
            (one((1, "a")), "`field` is an array"),
            (one(vec![1]), "`field` is an array"),
            (one(Nested { inner: 1 }), "`field` is an object"),
            (one(BTreeMap::from([("a", 1)])), "`field` is an object"),
            (one(Verdict::Improved { by: 0.1 }), "`field` is an enum variant with content"),
            (one(Verdict::Moved(1)), "`field` is an enum variant with content"),
            (one(Verdict::Pair(1, 2)), "`field` is an enum variant with content"),
            (one(f64::NAN), "`field` is not a finite number"),
            (one(f32::INFINITY), "`field` is not a finite number"),
            (one("x".repeat(1025)), "`field` has 1025 characters"),
        ] {
            let error = refused.expect_err(wants).to_string();
            assert!(error.contains(wants), "{error}");
        }
    }

    #[test]
    fn a_field_left_out_is_no_output_and_one_that_cannot_be_serialised_is_named() {
        #[derive(Serialize)]
        struct Sparse {
            #[serde(skip_serializing_if = "Option::is_none")]
            loss: Option<f64>,
            #[serde(serialize_with = "never")]
            broken: [u8; 16],
        }

        fn never<S: Serializer>(_: &[u8; 16], _: S) -> Result<S::Ok, S::Error> {
            Err(ser::Error::custom("out of range"))
        }

        let error = outputs(&Sparse { loss: None, broken: [0; 16] }).expect_err("broken");
        assert_eq!(error, InvalidOutput::Unserialisable("`broken`: out of range".to_owned()));
        assert!(error.to_string().contains("`broken`: out of range"), "{error}");
    }

    #[test]
    fn two_fields_with_one_name_are_refused() {
        #[derive(Serialize)]
        struct Colliding {
            inner: u8,
            #[serde(flatten)]
            nested: Nested,
        }

        let twice = outputs(&Colliding { inner: 1, nested: Nested { inner: 2 } });
        assert_eq!(twice, Err(InvalidOutput::Twice("inner".to_owned())));
    }

    #[test]
    fn more_than_fifty_fields_are_refused() {
        let fields = |count: usize| (0..count).map(|n| (format!("o{n}"), n)).collect();
        let many: BTreeMap<String, usize> = fields(50);
        assert_eq!(outputs(&many).map(|outputs| outputs.len()), Ok(50));
        let more: BTreeMap<String, usize> = fields(51);
        assert_eq!(outputs(&more), Err(InvalidOutput::TooMany));
    }

    #[test]
    fn a_value_that_is_no_struct_and_no_map_is_refused_unless_it_is_nothing() {
        for nothing in [json!(null), json!({})] {
            assert_eq!(outputs(&nothing), Ok(Outputs::new()));
        }
        assert_eq!(outputs(&()), Ok(Outputs::new()));
        for (value, kind) in [
            (json!("text"), "a string"),
            (json!(1), "a number"),
            (json!(true), "a boolean"),
            (json!([1]), "an array"),
        ] {
            assert_eq!(outputs(&value), Err(InvalidOutput::NotObject(kind)));
        }
        assert_eq!(outputs(&Verdict::Accepted), Err(InvalidOutput::NotObject("a string")));
        let variant = outputs(&Verdict::Improved { by: 0.1 });
        assert_eq!(variant, Err(InvalidOutput::NotObject("an enum variant with content")));
    }

    #[test]
    fn a_map_is_outputs_by_its_keys_and_a_wrapper_is_what_it_wraps() {
        assert_eq!(
            outputs(&BTreeMap::from([(7, "a")])),
            Ok(Outputs::of([("7", "a")]).expect("valid"))
        );
        assert_eq!(outputs(&Some(Nested { inner: 1 })).map(|all| all.len()), Ok(1));
        let nameless: BTreeMap<(u8, u8), u8> = BTreeMap::from([((1, 2), 3)]);
        let error = outputs(&nameless).expect_err("no name").to_string();
        assert!(error.contains("a name is not a string"), "{error}");
        let json: Value = json!({ "a": 1.5, "b": "x" });
        assert_eq!(outputs(&json), Outputs::try_from(json));
    }
}
