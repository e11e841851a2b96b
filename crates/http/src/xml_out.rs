//! Documents on their way out: escaped text, never CDATA, no comments, no attributes but the namespace of the root.
//!
//! Source: http.md sections 3.3 to 3.7.

/// Clients read errors by exactly this namespace, without a slash at its end.
pub(crate) const NAMESPACE: &str = "http://mq.aliyuncs.com/doc/v1";

/// Whether XML 1.0 can carry this text.
pub(crate) fn is_legal(text: &str) -> bool {
    illegal_char(text).is_none()
}

/// A character of this text that XML 1.0 cannot carry.
pub(crate) fn illegal_char(text: &str) -> Option<char> {
    /// Without an early end the compiler looks at many bytes at once.
    const PIECE: usize = 64;
    let none_is = |is: fn(u8) -> bool| {
        text.as_bytes().chunks(PIECE).all(|piece| !piece.iter().fold(false, |found, byte| found | is(*byte)))
    };
    let no_control = none_is(|byte| byte < b' ' && byte != b'\t' && byte != b'\n' && byte != b'\r');
    // Of the others, U+FFFE and U+FFFF.
    let no_last = none_is(|byte| byte == 0xef)
        || !text.as_bytes().windows(3).any(|bytes| matches!(bytes, [0xef, 0xbf, 0xbe | 0xbf]));
    if no_control && no_last {
        return None;
    }
    text.chars().find(|char| !is_legal_char(*char))
}

/// Whether XML 1.0 can carry this character.
pub(crate) fn is_legal_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A document being written.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
    root: &'static str,
}

impl Document {
    /// Begins with the root's start tag.
    pub fn begin(root: &'static str, capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity + 128);
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
        text.push_str(root);
        text.push_str(" xmlns=\"");
        text.push_str(NAMESPACE);
        text.push_str("\">");
        Self { text, root }
    }

    /// A start tag.
    pub fn open(&mut self, name: &str) {
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
    }

    /// An end tag.
    pub fn close(&mut self, name: &str) {
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    /// An element with nothing but text.
    pub fn element(&mut self, name: &str, text: &str) {
        self.open(name);
        self.escaped(text);
        self.close(name);
    }

    /// An element with a number.
    pub fn number(&mut self, name: &str, number: i64) {
        self.element(name, &number.to_string());
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Ends the document.
    pub fn finish(mut self) -> String {
        let root = self.root;
        self.close(root);
        self.text
    }

    fn escaped(&mut self, text: &str) {
        let mut rest = text;
        // By bytes: none of these is part of another character.
        while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'&' | b'<' | b'>' | b'"' | b'\'' | b'\r')) {
            let (plain, special) = rest.split_at(at);
            self.text.push_str(plain);
            self.text.push_str(match special.as_bytes().first() {
                Some(b'&') => "&amp;",
                Some(b'<') => "&lt;",
                Some(b'>') => "&gt;",
                Some(b'"') => "&quot;",
                Some(b'\'') => "&apos;",
                // A parser would take it for the end of a line.
                _ => "&#13;",
            });
            rest = special.get(1..).unwrap_or("");
        }
        self.text.push_str(rest);
    }
}

/// Characters that XML cannot carry are shown as replaced: texts of errors quote what clients sent.
fn shown(text: &str) -> String {
    text.chars().map(|char| if is_legal_char(char) { char } else { '\u{fffd}' }).collect()
}

/// The document of a request that was not carried out.
pub(crate) fn error(code: &str, message: &str, request_id: &str, host: &str) -> String {
    let mut document = Document::begin("Error", 256 + message.len());
    document.element("Code", code);
    document.element("Message", &shown(message));
    document.element("RequestId", request_id);
    document.element("HostId", &format!("http://{}", shown(host)));
    document.finish()
}

/// The document of handles that were refused: handle, code, message.
pub(crate) fn errors(refused: &[(String, &'static str, String)]) -> String {
    let mut document = Document::begin("Errors", refused.len() * 256);
    for (handle, code, message) in refused {
        document.open("Error");
        document.element("ErrorCode", code);
        document.element("ErrorMessage", &shown(message));
        document.element("ReceiptHandle", &shown(handle));
        document.close("Error");
    }
    document.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_so_that_parsers_give_it_back_and_the_namespace_has_no_slash() {
        let text = error("InvalidArgument", "a<b>&\"'\r\n\u{1}", "ABC", "host:80");
        assert!(text.contains("<Message>a&lt;b&gt;&amp;&quot;&apos;&#13;\n\u{fffd}</Message>"), "{text}");
        assert!(text.contains("<Error xmlns=\"http://mq.aliyuncs.com/doc/v1\"><Code>InvalidArgument</Code>"), "{text}");
        assert!(text.ends_with("<HostId>http://host:80</HostId></Error>"), "{text}");
    }

    #[test]
    fn what_xml_cannot_carry_is_known() {
        assert!(is_legal("\t\r\n ~\u{7f}äß\u{fffd}\u{1f600}"));
        for bad in ["\0", "\u{8}", "\u{b}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            assert!(!is_legal(bad), "{bad:?}");
            // Wherever it is, whatever is around it.
            for at in [0, 1, 62, 63, 64, 200] {
                let text = format!("{}{bad}{}", "x".repeat(at), "，é".repeat(70));
                assert_eq!(illegal_char(&text), bad.chars().next(), "{bad:?} at {at}");
            }
        }
        assert!(is_legal(&"，é\u{fffd} ".repeat(70)));
    }
}
