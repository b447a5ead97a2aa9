//! The content of a file in a form that JSON can hold: as text if it is UTF-8, else in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The bytes of a file. In JSON a string if they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content(pub(super) Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { base64: String },
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", BASE64.encode(&self.0))]),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes { base64 } => BASE64.decode(base64).map_err(de::Error::custom)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn any_bytes_survive_json_and_text_is_text_there() {
        for (bytes, form) in [
            (b"job-7\n".to_vec(), json!("job-7\n")),
            (b"job \xff\0".to_vec(), json!({ "base64": "am9iIP8A" })),
        ] {
            let content = Content(bytes);
            let value: Value = serde_json::to_value(&content).expect("JSON");
            assert_eq!(value, form);
            assert_eq!(serde_json::from_value::<Content>(value).expect("content"), content);
        }
        assert!(serde_json::from_value::<Content>(json!({ "base64": "?" })).is_err());
    }
}
