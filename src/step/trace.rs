//! The trace that a message belongs to: SQS's `AWSTraceHeader`, which a sender can set.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A trace header as AWS X-Ray writes it:
/// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`. Fields other than
/// these three are kept and not interpreted. Visible ASCII and spaces, at most 512 bytes, so it
/// fits into a header and into the environment as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceHeader {
    text: Arc<str>,
    /// 32 lower-case hexadecimal digits.
    trace_id: [u8; 32],
    /// 16 of them.
    parent: Option<[u8; 16]>,
    /// Whether the sender decided that the trace is recorded, or is not.
    sampled: Option<bool>,
}

/// The text is not a trace header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{0}")]
pub struct InvalidTrace(&'static str);

/// X-Ray's own fields need 83 bytes; `Lineage` and `Self` add fewer than 150.
const LARGEST: usize = 512;

impl TraceHeader {
    /// The header as it was received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id of the trace as W3C and OpenTelemetry write it: the 32 digits of `Root`.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        digits(&self.trace_id)
    }

    /// The same context as W3C's `traceparent`; `None` if the header names no parent. Its sampled
    /// flag is set if the header has `Sampled=1`.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let parent = digits(self.parent.as_ref()?);
        let flags = u8::from(self.sampled == Some(true));
        Some(format!("00-{}-{parent}-{flags:02x}", self.trace_id()))
    }

    /// The span that the message was sent in, as 16 digits.
    pub(crate) fn parent(&self) -> Option<&str> {
        self.parent.as_ref().map(|parent| digits(parent))
    }

    /// Whether the trace is recorded, if its sender has decided that.
    pub(crate) fn sampled(&self) -> Option<bool> {
        self.sampled
    }

    /// The header for what happens in a span of ours. The fields that are not interpreted stay, if
    /// there is room for them.
    pub(crate) fn within(
        trace_id: &str,
        span: &str,
        sampled: bool,
        of: Option<&Self>,
    ) -> Option<Self> {
        let (time, random) = trace_id.split_at_checked(8)?;
        let ours = format!("Root=1-{time}-{random};Parent={span};Sampled={}", u8::from(sampled));
        let parts =
            of.map_or("", |header| &header.text).split(';').map(|part| part.trim_matches(' '));
        let others = parts.filter(|part| {
            let name = part.split('=').next().unwrap_or_default();
            !matches!(name, "" | "Root" | "Parent" | "Sampled")
        });
        let all = others.fold(ours.clone(), |text, part| format!("{text};{part}"));
        all.parse().or_else(|_| ours.parse()).ok()
    }
}

/// Only ASCII digits are stored.
fn digits(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl FromStr for TraceHeader {
    type Err = InvalidTrace;

    fn from_str(text: &str) -> Result<Self, InvalidTrace> {
        if text.len() > LARGEST {
            return Err(InvalidTrace("a trace header has at most 512 bytes"));
        }
        if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(InvalidTrace("a trace header has visible ASCII characters only"));
        }
        let (mut root, mut parent, mut sampled) = (None, None, None);
        for part in text.split(';').map(|part| part.trim_matches(' ')) {
            let Some((name, value)) = part.split_once('=') else {
                // A `;` may end the header.
                if part.is_empty() {
                    continue;
                }
                return Err(InvalidTrace("a part of the trace header is not NAME=VALUE"));
            };
            let slot = match name {
                "Root" => &mut root,
                "Parent" => &mut parent,
                "Sampled" => &mut sampled,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(InvalidTrace("the trace header has a field twice"));
            }
        }
        let trace_id = root.and_then(trace_id).ok_or(InvalidTrace(
            "the trace header's Root is not 1-, 8 hexadecimal digits, -, and 24 more",
        ))?;
        let parent = parent.map(|parent| {
            hexadecimal(parent)
                .ok_or(InvalidTrace("the trace header's Parent is not 16 hexadecimal digits"))
        });
        let sampled = match sampled {
            Some("1") => Some(true),
            Some("0") => Some(false),
            // Undecided, or left to who receives it: W3C has no such state.
            None | Some("?") => None,
            Some(_) => return Err(InvalidTrace("the trace header's Sampled is not 0, 1 or ?")),
        };
        Ok(Self { text: text.into(), trace_id, parent: parent.transpose()?, sampled })
    }
}

fn trace_id(root: &str) -> Option<[u8; 32]> {
    let (time, random) = root.strip_prefix("1-")?.split_once('-')?;
    if time.len() != 8 {
        return None;
    }
    hexadecimal(&[time, random].concat())
}

/// Exactly `N` hexadecimal digits, in lower case; W3C takes nothing but zeros for no id.
fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: [u8; N] = text.as_bytes().try_into().ok()?;
    let is_id =
        digits.iter().all(u8::is_ascii_hexdigit) && digits.iter().any(|digit| *digit != b'0');
    is_id.then(|| digits.map(|digit| digit.to_ascii_lowercase()))
}

impl TryFrom<String> for TraceHeader {
    type Error = InvalidTrace;

    fn try_from(text: String) -> Result<Self, InvalidTrace> {
        text.parse()
    }
}

impl From<TraceHeader> for String {
    fn from(header: TraceHeader) -> Self {
        header.text.as_ref().to_owned()
    }
}

impl fmt::Display for TraceHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";

    fn parsed(text: &str) -> Result<TraceHeader, InvalidTrace> {
        text.parse()
    }

    #[test]
    fn the_w3c_form_is_derived_from_root_parent_and_sampled() {
        let id = "5759e988bd862e3fe1be46a994272793";
        for (rest, flags) in [
            (";Parent=53995c3f42cd8ad8;Sampled=1", "01"),
            (";Sampled=0;Parent=53995C3F42CD8AD8", "00"),
            ("; Parent=53995c3f42cd8ad8; Sampled=?;", "00"),
            (";Parent=53995c3f42cd8ad8;Lineage=a87bd80c:1|68fd508a:5;Self=1-2-3", "00"),
        ] {
            let text = format!("{ROOT}{rest}");
            let header = parsed(&text).expect(&text);
            assert_eq!(header.trace_id(), id);
            assert_eq!(header.traceparent(), Some(format!("00-{id}-53995c3f42cd8ad8-{flags}")));
            assert_eq!(header.as_str(), text, "kept as it was received");
        }
    }

    #[test]
    fn without_a_parent_there_is_no_w3c_form() {
        let header = parsed(ROOT).expect("a root is enough");
        assert_eq!((header.traceparent(), header.as_str()), (None, ROOT));
    }

    #[test]
    fn the_header_of_a_span_of_ours_names_it_and_keeps_what_is_not_interpreted() {
        let (id, span) = ("5759e988bd862e3fe1be46a994272793", "00f067aa0ba902b7");
        let of = |text: &str| {
            let header = parsed(text).expect(text);
            TraceHeader::within(id, span, true, Some(&header)).expect("a header").to_string()
        };
        let ours = format!("{ROOT};Parent={span};Sampled=1");
        assert_eq!(of(ROOT), ours);
        assert_eq!(
            of(&format!("{ROOT}; Parent=53995c3f42cd8ad8;Sampled=0; Lineage=a:1|b:5;Self=1-2-3;")),
            format!("{ours};Lineage=a:1|b:5;Self=1-2-3")
        );
        let crowded = format!("{ROOT};Lineage={}", "x".repeat(LARGEST - ROOT.len() - 9));
        assert_eq!(of(&crowded), ours, "there is no room for it");
        let new = TraceHeader::within(id, span, false, None).expect("a header");
        assert_eq!(new.traceparent(), Some(format!("00-{id}-{span}-00")));
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_refused() {
        let long = format!("{ROOT};Lineage={}", "x".repeat(LARGEST));
        for bad in [
            "",
            "Parent=53995c3f42cd8ad8",
            "Root=1-5759e988-bd862e3fe1be46a99427279",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759e98-8bd862e3fe1be46a994272793",
            "Root=1-5759e988-bd862e3fe1be46a99427279g",
            "Root=1-00000000-000000000000000000000000",
            &format!("{ROOT};{ROOT}"),
            &format!("{ROOT};Parent=0000000000000000"),
            &format!("{ROOT};Parent=53995c3f42cd8ad"),
            &format!("{ROOT};Sampled=yes"),
            &format!("{ROOT};x"),
            &format!("{ROOT};a=\n"),
            &format!("{ROOT};a=\u{1b}[2J"),
            &format!("{ROOT};a=é"),
            &long,
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_fits_a_header_and_the_environment(
            rest in "(;[ -~\\x00\\n\\x7fé]{0,8}){0,3}"
        ) {
            if let Ok(header) = parsed(&format!("{ROOT}{rest}")) {
                prop_assert!(header.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
                let json = serde_json::to_string(&header).expect("JSON");
                prop_assert_eq!(serde_json::from_str::<TraceHeader>(&json).expect("reads back"), header);
            }
        }
    }
}
