//! A Rust file without comments, texts and code that is compiled only for tests. Lines keep their
//! numbers.

/// What is left of a file.
pub struct Code {
    pub text: String,
    /// `#[cfg(test)] mod NAME;`: the files that these name are tests completely.
    pub test_modules: Vec<String>,
    /// Lines before the first test-only item; all if there is none.
    pub lines: usize,
}

impl Code {
    pub fn of(source: &str) -> Self {
        let mut text = without_comments_and_texts(source);
        let total = text.lines().count();
        let mut lines = total;
        let mut test_modules = Vec::new();
        let mut from = 0;
        while let Some(at) = next_test(&text, from) {
            lines = lines.min(text[..at].lines().count());
            let end = end_of_item(&text, at);
            let item = &text[at..end];
            if let Some(name) =
                item.split("mod ").nth(1).and_then(|rest| rest.trim_end().strip_suffix(';'))
            {
                test_modules.push(name.trim().to_owned());
            }
            let blank = blanked(item);
            text.replace_range(at..end, &blank);
            from = at + blank.len();
        }
        Self { text, test_modules, lines }
    }

    /// Where `needle` occurs as whole words: line numbers, from 1.
    pub fn find(&self, needle: &str) -> Vec<usize> {
        let found = self.text.match_indices(needle).filter(|(at, _)| {
            let before = self.text[..*at].chars().next_back();
            let after = self.text[at + needle.len()..].chars().next();
            let joins = |edge: Option<char>, other: Option<char>| is_word(edge) && is_word(other);
            !joins(needle.chars().next(), before) && !joins(needle.chars().next_back(), after)
        });
        found.map(|(at, _)| self.line(at)).collect()
    }

    pub fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// Where a slice of the text begins; the source has what it stands for at the same place.
    pub fn place(&self, slice: &str) -> usize {
        slice.as_ptr() as usize - self.text.as_ptr() as usize
    }

    /// The calls of a macro, under whatever path: the line of each, and its arguments.
    pub fn calls(&self, name: &str) -> Vec<(usize, Vec<&str>)> {
        let found = self
            .text
            .match_indices(name)
            .filter(|(at, _)| !is_word(self.text[..*at].chars().next_back()));
        let call = |(at, _): (usize, &str)| {
            let open = self.text[at + name.len()..].strip_prefix('!')?.trim_start();
            open.starts_with(['(', '[', '{']).then(|| (self.line(at), arguments(&open[1..])))
        };
        found.filter_map(call).collect()
    }
}

/// The parts between commas, up to the end of the call in which `inside` begins. A group in braces
/// counts as its parts.
fn arguments(inside: &str) -> Vec<&str> {
    let (mut all, mut begin, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, c) in inside.char_indices() {
        match c {
            '(' | '[' | '{' => {
                if depth == 0 && c == '{' && inside[begin..at].trim().is_empty() {
                    all.extend(arguments(&inside[at + 1..]));
                }
                depth += 1;
            }
            ')' | ']' | '}' if depth == 0 => {
                all.push(&inside[begin..at]);
                return all;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&inside[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    all
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn next_test(text: &str, from: usize) -> Option<usize> {
    ["#[cfg(test)]", "#[cfg(all(test"]
        .iter()
        .filter_map(|mark| text[from..].find(mark))
        .min()
        .map(|at| from + at)
}

/// The end of the item that begins, with its attributes, at `at`: after its body or its semicolon.
fn end_of_item(text: &str, at: usize) -> usize {
    let (mut depth, mut brackets) = (0_usize, 0_usize);
    for (offset, c) in text[at..].char_indices() {
        match c {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets = brackets.saturating_sub(1),
            '{' => depth += 1,
            '}' if depth <= 1 => return at + offset + 1,
            '}' => depth -= 1,
            ';' if depth == 0 && brackets == 0 => return at + offset + 1,
            _ => {}
        }
    }
    text.len()
}

/// Blanks comments and the insides of texts, but not a text that is a path of ours, as in
/// `#[serde(with = "crate::duration")]`, nor one that is the name of a field, as in
/// `info!("message" = 1)`.
fn without_comments_and_texts(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let word_before = is_word(out.chars().next_back());
        let (length, keep) = match c {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => {
                (text(rest, 1), rest.starts_with("\"crate::") || rest.starts_with("\"message\""))
            }
            'r' | 'b' | 'c' if !word_before => match prefixed_text(rest) {
                Some(length) => (length, false),
                None => (1, true),
            },
            '\'' => match character(rest) {
                Some(length) => (length, false),
                None => (1, true),
            },
            _ => (c.len_utf8(), true),
        };
        let (token, after) = rest.split_at(length);
        if keep {
            out.push_str(token);
        } else {
            out += &blanked(token);
        }
        rest = after;
    }
    out
}

/// As many bytes, so that all that follows keeps its place.
fn blanked(token: &str) -> String {
    token.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a text whose inside begins at `inside`.
fn text(rest: &str, inside: usize) -> usize {
    let mut escaped = false;
    for (at, c) in rest[inside..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return inside + at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `b"…"`, `c"…"`, `r"…"`, `r#"…"#`, `br#"…"#`.
fn prefixed_text(rest: &str) -> Option<usize> {
    let word = rest.find(['"', '#', '\''])?;
    let (prefix, body) = rest.split_at(word);
    match prefix {
        "b" if body.starts_with('\'') => character(body).map(|length| word + length),
        "b" | "c" if body.starts_with('"') => Some(text(rest, word + 1)),
        "r" | "br" | "cr" => {
            let hashes = body.len() - body.trim_start_matches('#').len();
            let inside = body[hashes..].strip_prefix('"')?;
            let close = format!("\"{}", "#".repeat(hashes));
            let length = inside.find(&close).map_or(inside.len(), |at| at + close.len());
            Some(word + hashes + 1 + length)
        }
        _ => None,
    }
}

/// The length of a character literal; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = &rest[1..];
    if let Some(escape) = inside.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|at| 2 + first + at + 1);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..].starts_with('\'').then_some(length + 2)
}

#[test]
fn comments_and_texts_are_no_code() {
    let source = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l b\"m\" n br\"o\" p";
    let code = Code::of(source);
    assert_eq!(code.text.split_whitespace().collect::<String>(), "aeilnp");
    assert_eq!(code.text.len(), source.len());
}

#[test]
fn a_quote_in_a_character_begins_no_text_and_a_lifetime_no_character() {
    for (source, wants) in [
        (r#"a '"' b "c" d"#, "abd"),
        (r"a '\'' b '\u{7f}' c", "abc"),
        (r"fn f<'a>(x: &'a str, y: &'a str)", "fnf<'a>(x:&'astr,y:&'astr)"),
        ("a b'\"' c \"d\" e", "ace"),
        ("var r = for_r\"x\";", "varr=for_r;"),
    ] {
        assert_eq!(Code::of(source).text.split_whitespace().collect::<String>(), wants, "{source}");
    }
}

#[test]
fn what_is_compiled_for_tests_only_is_no_code() {
    let source = "a\n#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n fn f() { b \
                  }\n}\nc\n#[cfg(test)]\nmod claims;\nd\n\
                  #[cfg(all(test, feature = \"x\"))]\nfn g(x: [u8; 2]) {}\ne #[cfg(test)] use \
                  h::{i, j}; k";
    let code = Code::of(source);
    assert_eq!(code.text.split_whitespace().collect::<Vec<_>>().join(" "), "a c d e ; k");
    assert_eq!(code.test_modules, ["claims"]);
    assert_eq!(code.lines, 1);
}

#[test]
fn the_arguments_of_a_call_are_found_however_it_is_written() {
    let code =
        Code::of("\nf!(a, b(c, d), { e, f }, \"g, h\", x => { i; j }); tracing::f! [k]; of!(l)");
    let calls = code.calls("f");
    let trimmed = |at: usize| calls[at].1.iter().map(|one| one.trim()).collect::<Vec<_>>();
    assert_eq!(trimmed(0), ["a", "b(c, d)", "e", "f", "{ e, f }", "", "x => { i; j }"]);
    assert_eq!((trimmed(1), calls.len(), calls[0].0), (vec!["k"], 2, 2));
}

#[test]
fn a_word_is_found_whole_and_with_its_line() {
    let code = Code::of("Instant::now()\nMyInstant\nInstantly\nx.delete(1)");
    assert_eq!(code.find("Instant"), [1]);
    assert_eq!(code.find(".delete("), [4]);
}
