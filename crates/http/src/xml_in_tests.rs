//! What is read, what is refused, and that nothing panics.

use super::*;
use crate::xml_out::{self, Document};
use proptest::prelude::*;

fn body(document: &str) -> Result<String, XmlError> {
    publish(document.as_bytes()).map(|publish| publish.body.unwrap_or_default())
}

#[test]
fn documents_of_every_sdk_are_read() {
    let with_slash = "<?xml version=\"1.0\" encoding=\"utf-8\"?><Message xmlns=\"http://mq.aliyuncs.com/doc/v1/\">\
        <MessageBody>a&amp;b&#x41;&#66;</MessageBody><Properties>k:v|</Properties><MessageTag>t</MessageTag></Message>";
    let read = publish(with_slash.as_bytes()).unwrap();
    assert_eq!(read.body.as_deref(), Some("a&bAB"));
    assert_eq!((read.tag.as_deref(), read.properties.as_deref()), (Some("t"), Some("k:v|")));
    // No declaration and no namespace; a prefix; a byte order mark; pieces of CDATA; what nobody knows.
    for (document, expected) in [
        ("<Message><MessageBody>x</MessageBody></Message>", "x"),
        ("<m:Message xmlns:m=\"u\"><m:MessageBody>x</m:MessageBody></m:Message>", "x"),
        ("\u{feff}<Message>\n<MessageBody> x </MessageBody>\n</Message>\n", " x "),
        ("<Message><MessageBody><![CDATA[<a>&amp;]]>b<![CDATA[c]]></MessageBody></Message>", "<a>&amp;bc"),
        ("<Message><New><Deep>d</Deep></New><MessageBody>x<!-- c -->y</MessageBody></Message>", "xy"),
        ("<Message><MessageBody></MessageBody></Message>", ""),
        ("<Message><MessageBody/></Message>", ""),
        ("<Message/>", ""),
    ] {
        assert_eq!(body(document), Ok(expected.to_owned()), "{document}");
    }
    let read =
        handles(b"<ReceiptHandles><ReceiptHandle>a</ReceiptHandle><ReceiptHandle>b</ReceiptHandle></ReceiptHandles>");
    assert_eq!(read, Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(handles(b"<ReceiptHandles></ReceiptHandles>"), Ok(vec![]));
}

#[test]
fn what_is_not_well_formed_or_could_expand_is_refused_by_name() {
    let bomb =
        "<!DOCTYPE m [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Message><MessageBody>&b;</MessageBody></Message>";
    assert!(matches!(body(bomb), Err(XmlError::Refused { .. })), "{:?}", body(bomb));
    let deep = format!("{}{}", "<Message>".repeat(100_000), "</Message>".repeat(100_000));
    assert!(matches!(body(&deep), Err(XmlError::Refused { .. })));
    let wide = format!("<Message>{}</Message>", "<a/>".repeat(100_000));
    assert!(matches!(body(&wide), Err(XmlError::Refused { .. })));
    for bad in [
        "",
        "no XML",
        "<Message>",
        "<Message></Error>",
        "<Message/><Message/>",
        "<Message/>x",
        "x<Message/>",
        "<Message><MessageBody>&b;</MessageBody></Message>",
        "<Message><MessageBody>&#1;</MessageBody></Message>",
        "<Message><MessageBody>&#xD800;</MessageBody></Message>",
        "<Message><MessageBody>\u{1}</MessageBody></Message>",
        "<Message><MessageBody>a]]>&</MessageBody></Message>",
        "<Message a=b><MessageBody>a</MessageBody></Message>",
    ] {
        assert!(matches!(body(bad), Err(XmlError::Malformed { .. })), "{bad:?}: {:?}", body(bad));
    }
    assert!(matches!(publish(b"<Message>\xff</Message>"), Err(XmlError::Malformed { .. })));
    for other in ["<ReceiptHandles/>", "<Message><MessageBody>a</MessageBody><MessageBody>b</MessageBody></Message>"] {
        assert!(matches!(body(other), Err(XmlError::Schema { .. })), "{other}");
    }
}

fn legal_text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>().prop_filter("legal", |char| xml_out::is_legal_char(*char)), 0..200)
        .prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn every_legal_text_that_is_written_is_read_back(text in legal_text()) {
        let mut document = Document::begin("Message", 0);
        document.element("MessageBody", &text);
        prop_assert_eq!(body(&document.finish()), Ok(text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = publish(&bytes);
        let _ = publish(&[b"<Message><MessageBody>", &bytes[..], b"</MessageBody></Message>"].concat());
        let _ = handles(&[b"<ReceiptHandles>", &bytes[..]].concat());
    }

    #[test]
    fn no_document_made_of_marks_panics(text in "[<>&;/!\\[\\]\"'a#x0-9= -]{0,80}") {
        let _ = publish(text.as_bytes());
        let _ = publish(format!("<Message>{text}</Message>").as_bytes());
    }
}
