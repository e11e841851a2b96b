//! Signatures as the SDKs make them, and everything that is wrong with others.

use super::*;
use hyper::Request;
use martlet_broker::auth::{Accounts, Secret, User, UserKind};

const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn now() -> SystemTime {
    httpdate::parse_http_date(NOW).unwrap()
}

fn checked(parts: &Parts) -> Result<String, Denied> {
    let accounts = Accounts::parse("key secret").unwrap();
    let off = User { secret: Secret::new("secret"), kind: UserKind::Normal, enabled: false };
    let (users, policies) = ([("off".to_owned(), off)].into(), BTreeMap::new());
    let access = Access { accounts: &accounts, users: &users, policies: &policies, authorization: false };
    check(&access, parts, now()).map(|caller| caller.name().to_owned())
}

fn sign(text: &str) -> String {
    STANDARD.encode(Secret::new("secret").sign([text.as_bytes()]))
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn denied(parts: &Parts) -> Code {
    checked(parts).unwrap_err().code
}

#[test]
fn what_is_signed_is_what_was_sent_with_empty_lines_for_what_is_missing() {
    let target = "/topics/I%25t/messages?consumer=g&numOfMessages=3&tag=a%7C%7Cb+c";
    let bare = sign(&format!("GET\n\n\n{NOW}\nx-mq-version:2015-06-06\n{target}"));
    let headers = [("Authorization", &*format!("MQ key:{bare}")), ("Date", NOW), ("X-Mq-Version", "2015-06-06")];
    assert_eq!(checked(&request("GET", target, &headers)), Ok("key".into()));
    assert_eq!(denied(&request("GET", "/topics/t/messages", &headers)), Code::SignatureDoesNotMatch);
    assert_eq!(denied(&request("POST", target, &headers)), Code::SignatureDoesNotMatch);

    let full = sign(&format!(
        "POST\nZGln\ntext/xml;charset=utf-8\n{NOW}\nx-mq-a:1\nx-mq-version:2015-06-06\n/p/topics/t/messages"
    ));
    let headers = [
        ("authorization", &*format!("MQ key:{full}")),
        ("date", NOW),
        ("x-mq-version", "2015-06-06"),
        ("content-md5", "ZGln"),
        ("content-type", "text/xml;charset=utf-8"),
        ("x-mq-a", "1"),
        ("security-token", "not signed"),
    ];
    assert_eq!(checked(&request("POST", "/p/topics/t/messages", &headers)), Ok("key".into()));
}

#[test]
fn what_is_missing_wrong_or_late_is_told_by_its_code() {
    let ok = sign(&format!("GET\n\n\n{NOW}\n/"));
    let ask = |authorization: &str, date: &str| {
        let mut headers = vec![];
        if !authorization.is_empty() {
            headers.push(("authorization", authorization));
        }
        if !date.is_empty() {
            headers.push(("date", date));
        }
        denied(&request("GET", "/", &headers))
    };
    let good = format!("MQ key:{ok}");
    assert_eq!(ask("", NOW), Code::MissingAuthorizationHeader);
    for bad in ["Basic a:b", "MQ", "MQ key", "MQ :x", "MQ key:???"] {
        assert_eq!(ask(bad, NOW), Code::InvalidAuthorizationHeader, "{bad}");
    }
    assert_eq!(ask(&good, ""), Code::MissingDateHeader);
    assert_eq!(ask(&good, "yesterday"), Code::InvalidDateHeader);
    assert_eq!(ask(&good, "Sun, 06 Nov 1994 08:34:36 GMT"), Code::TimeExpired);
    assert_eq!(ask(&good, "Sun, 06 Nov 1994 09:04:38 GMT"), Code::TimeExpired);
    assert_eq!(ask(&good, "Sun, 06 Nov 1994 09:04:37 GMT"), Code::SignatureDoesNotMatch);
    assert_eq!(ask(&format!("MQ other:{ok}"), NOW), Code::InvalidAccessKeyId);
    assert_eq!(ask(&format!("MQ off:{ok}"), NOW), Code::AccessDenied);
    assert_eq!(ask("MQ key:AAAA", NOW), Code::SignatureDoesNotMatch);
}

#[test]
fn digests_in_both_forms_are_taken_and_wrong_ones_are_not() {
    let check = |value: &str, body: &[u8]| {
        let parts = request("POST", "/", &[("content-md5", value)]);
        check_digest(&parts.headers, body).map_err(|denied| denied.code)
    };
    let hex: String = Md5::digest(b"body").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(check(&STANDARD.encode(&hex), b"body"), Ok(()));
    assert_eq!(check(&STANDARD.encode(Md5::digest(b"body")), b"body"), Ok(()));
    assert_eq!(check(&STANDARD.encode(&hex), b"other"), Err(Code::InvalidDigest));
    for bad in ["", "???", &*hex] {
        assert_eq!(check(bad, b"body"), Err(Code::InvalidDigest), "{bad}");
    }
    assert_eq!(body_digest(b"body"), hex.to_uppercase());
}

#[test]
fn sending_needs_pub_and_consuming_sub_of_topic_and_group() {
    let of = |method, query| {
        let target = Target::read("/topics/t/messages", Some(query)).unwrap();
        needs(&method, &target).iter().map(|need| format!("{} {:?}", need.resource, need.actions)).collect::<Vec<_>>()
    };
    assert_eq!(of(Method::POST, ""), ["Topic:t [Pub]"]);
    assert_eq!(of(Method::GET, "ns=I&consumer=g"), ["Group:I%g [Sub]", "Topic:I%t [Sub]"]);
    assert_eq!(of(Method::DELETE, "consumer=g&trans=order"), ["Group:g [Sub]", "Topic:t [Sub]"]);
    assert_eq!(of(Method::GET, "consumer=g&trans=pop"), ["Topic:t [Pub]"]);
    assert_eq!(of(Method::DELETE, "consumer=g&trans=commit"), ["Topic:t [Pub]"]);
}
