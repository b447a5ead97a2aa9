//! Where the status server listens.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::secret;

/// `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where health, metrics and the status page are served: an IP address and a port, or `off`.
    /// Everyone who can reach it can read it: keep it on loopback or behind a proxy.
    pub listen: Listen,
    /// The file with the token of those who may give orders there, at least 16 bytes; without it
    /// no orders are taken. It is read for each order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Config {
    /// What is to be said of the token's file, which is read for that.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Some(file) = &self.token_file else { return Vec::new() };
        let unused = (self.listen == Listen::Off)
            .then(|| "has no effect, because http.listen is \"off\"".to_owned());
        let open = matches!(self.listen, Listen::On(at) if !at.ip().is_loopback()).then(|| {
            "the token crosses the network as it is, because http.listen is beyond loopback: put a \
             proxy with TLS in front of it"
                .to_owned()
        });
        let unusable = secret::key(file).and_then(secret::in_a_header).err().map(|why| {
            format!("{} {why}; the status server takes no orders until it can", file.display())
        });
        unused.into_iter().chain(open).chain(unusable).chain(secret::open_to_all(file)).collect()
    }
}

/// An address, or none; in TOML `"127.0.0.1:9464"`, `"[::1]:9464"`, `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    On(SocketAddr),
}

impl Default for Listen {
    /// Only loopback.
    fn default() -> Self {
        Self::On(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|_| {
            format!(
                "{text:?} is not an address to listen on; write an IP address and a port, such as \
                 \"127.0.0.1:9464\" or \"[::1]:9464\", or \"off\""
            )
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:9464", "[::1]:9464", "off"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(listen: &str) -> Result<Config, String> {
        serde_json::from_value(serde_json::json!({ "listen": listen }))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["127.0.0.1:9464", "[::1]:9464", "0.0.0.0:80", "off"] {
            let config = read(text).expect(text);
            assert_eq!(
                serde_json::to_value(&config).expect("it is data"),
                serde_json::json!({ "listen": text })
            );
        }
        assert_eq!(read("127.0.0.1:9464"), Ok(Config::default()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_remedy() {
        for text in ["", "9464", "localhost:9464", "127.0.0.1", "Off", "http://127.0.0.1:9464"] {
            let error = read(text).expect_err(text);
            assert!(error.contains("\"127.0.0.1:9464\"") && error.contains("\"off\""), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_tokens_file_is_told_before_it_is_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let warnings = |listen: &str| {
            let listen = listen.parse().expect(listen);
            Config { listen, token_file: Some(file.clone()) }.warnings().join("; ")
        };
        assert!(warnings("127.0.0.1:1").contains("/token cannot be read"));
        std::fs::write(&file, "0123456789abcdef").expect("it is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("it is ours");
        assert_eq!(warnings("127.0.0.1:1"), "");
        assert!(warnings("off").contains("has no effect"));
        assert!(warnings("0.0.0.0:1").contains("crosses the network"));
        std::fs::write(&file, "0123456789 abcdef").expect("it is ours");
        assert!(warnings("127.0.0.1:1").contains("no header carries"));
        assert_eq!(Config::default().warnings(), [""; 0]);
    }
}
