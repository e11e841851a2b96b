//! Documents on their way in: a root, its children, their text. By local names, with or without a namespace or a declaration,
//! escaped or as CDATA.
//!
//! There is no document type, so no entity but the five that XML has, and nothing that expands; elements are at most
//! [`DEPTH_MAX`] deep and [`ELEMENTS_MAX`] in number. Pure.

use crate::xml_out::{illegal_char, is_legal_char};
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// The documents of this protocol are 2 deep; what is deeper is left unread up to here.
const DEPTH_MAX: usize = 8;
/// Elements of a document. 16 handles and some that are not known.
const ELEMENTS_MAX: usize = 256;

/// A document that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    /// Not well-formed.
    #[error("the body is not well-formed XML: {reason}")]
    Malformed { reason: String },
    /// Well-formed, and nothing that this protocol needs.
    #[error("the body has {what}")]
    Refused { what: String },
    /// Another document than the request takes.
    #[error("{what}")]
    Schema { what: String },
}

impl XmlError {
    fn malformed(reason: impl ToString) -> Self {
        Self::Malformed { reason: reason.to_string() }
    }
}

/// A publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publish {
    pub body: Option<String>,
    pub tag: Option<String>,
    pub properties: Option<String>,
}

/// Reads a `Message`.
pub(crate) fn publish(bytes: &[u8]) -> Result<Publish, XmlError> {
    let mut found = Publish::default();
    children(bytes, "Message", |name, text| {
        let place = match name {
            "MessageBody" => &mut found.body,
            "MessageTag" => &mut found.tag,
            "Properties" => &mut found.properties,
            _ => return Ok(()),
        };
        match place.replace(text) {
            None => Ok(()),
            Some(_) => Err(XmlError::Schema { what: format!("element {name} is there twice") }),
        }
    })?;
    Ok(found)
}

/// Reads `ReceiptHandles`.
pub(crate) fn handles(bytes: &[u8]) -> Result<Vec<String>, XmlError> {
    let mut found = Vec::new();
    children(bytes, "ReceiptHandles", |name, text| {
        if name == "ReceiptHandle" {
            found.push(text);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads a document and gives each child of its root, by local name, with its text.
fn children(
    bytes: &[u8],
    root: &str,
    mut child: impl FnMut(&str, String) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let text = std::str::from_utf8(bytes).map_err(|error| XmlError::malformed(format!("not UTF-8: {error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(bad) = illegal_char(text) {
        return Err(XmlError::malformed(format!("it has the character U+{:04X}", bad as u32)));
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let (mut depth, mut elements, mut ended) = (0, 0, false);
    let (mut name, mut content) = (String::new(), String::new());
    loop {
        let event = reader.read_event().map_err(XmlError::malformed)?;
        let is_content = depth == 2;
        match event {
            Event::Start(start) => {
                elements += 1;
                if ended {
                    return Err(XmlError::malformed("there is something behind the root"));
                }
                if depth == DEPTH_MAX || elements > ELEMENTS_MAX {
                    let what = format!("more than {ELEMENTS_MAX} elements, or some more than {DEPTH_MAX} deep");
                    return Err(XmlError::Refused { what });
                }
                // Attributes have no meaning here, and must be such all the same.
                for attribute in start.attributes() {
                    attribute.map_err(XmlError::malformed)?;
                }
                let local = start.local_name();
                let local = std::str::from_utf8(local.as_ref()).map_err(XmlError::malformed)?;
                if depth == 0 && local != root {
                    let shown: String = local.chars().take(64).collect();
                    return Err(XmlError::Schema { what: format!("root element is {shown}, expected {root}") });
                }
                if depth == 1 {
                    local.clone_into(&mut name);
                    content.clear();
                }
                depth += 1;
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    child(&name, std::mem::take(&mut content))?;
                }
                ended |= depth == 0;
            }
            Event::Text(text) => {
                let text = text.decode().map_err(XmlError::malformed)?;
                if is_content {
                    content.push_str(&text);
                } else if depth == 0 && !text.trim().is_empty() {
                    return Err(XmlError::malformed("there is text outside of the root"));
                }
            }
            Event::CData(text) => {
                let text = text.decode().map_err(XmlError::malformed)?;
                if depth == 0 {
                    return Err(XmlError::malformed("there is text outside of the root"));
                }
                if is_content {
                    content.push_str(&text);
                }
            }
            Event::GeneralRef(reference) => {
                let char = referred(&reference)?;
                if is_content {
                    content.push(char);
                }
            }
            Event::DocType(_) => return Err(XmlError::Refused { what: "a document type declaration".into() }),
            Event::Eof if ended && depth == 0 => return Ok(()),
            Event::Eof => return Err(XmlError::malformed("it ends before its root does")),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

/// The character that a reference stands for.
fn referred(reference: &BytesRef<'_>) -> Result<char, XmlError> {
    let char = match reference.resolve_char_ref().map_err(XmlError::malformed)? {
        Some(char) => Some(char),
        None => match &*reference.decode().map_err(XmlError::malformed)? {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => None,
        },
    };
    match char.filter(|char| is_legal_char(*char)) {
        Some(char) => Ok(char),
        None => {
            let shown: String = String::from_utf8_lossy(reference).chars().take(32).collect();
            Err(XmlError::malformed(format!("there is no character &{shown};")))
        }
    }
}

#[cfg(test)]
#[path = "xml_in_tests.rs"]
mod tests;
