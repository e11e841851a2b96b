//! Names on the wire: beside its bare name, a topic or group of an instance has the instance's id as its namespace. Every
//! protocol knows it as `id%name`, see [`names::full_name`].

use crate::code::Denied;
use crate::proto::rocketmq_v1;
use crate::proto::v2::{self, Code};
use martlet_model::{limits, names};

/// Longest id of an instance, in bytes: it is a part of names.
const NAMESPACE_BYTES_MAX: usize = limits::TOPIC_CHARS_MAX;

/// Namespace and bare name of a `Resource` of either package.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    namespace: String,
    name: String,
}

impl From<v2::Resource> for Parts {
    fn from(resource: v2::Resource) -> Self {
        Self { namespace: resource.resource_namespace, name: resource.name }
    }
}

impl From<&v2::Resource> for Parts {
    fn from(resource: &v2::Resource) -> Self {
        resource.clone().into()
    }
}

impl From<&rocketmq_v1::Resource> for Parts {
    fn from(resource: &rocketmq_v1::Resource) -> Self {
        Self { namespace: resource.resource_namespace.clone(), name: resource.name.clone() }
    }
}

/// Name of a topic as all protocols know it.
pub(crate) fn topic_name(topic: Option<impl Into<Parts>>) -> Result<String, Denied> {
    let name = full_name("topic", topic)?;
    names::check_topic(&name)?;
    Ok(name)
}

/// Name of a group as all protocols know it.
pub(crate) fn group_name(group: Option<impl Into<Parts>>) -> Result<String, Denied> {
    let name = full_name("group", group)?;
    names::check_group(&name)?;
    Ok(name)
}

/// Name of a topic or group as all protocols know it, whatever it is. `field` is what a refusal calls it.
pub(crate) fn full_name(field: &str, resource: Option<impl Into<Parts>>) -> Result<String, Denied> {
    let Parts { namespace, name } = resource.map(Into::into).unwrap_or_default();
    if namespace.len() > NAMESPACE_BYTES_MAX {
        let (bytes, max) = (namespace.len(), NAMESPACE_BYTES_MAX);
        let text = format!("{field}.resource_namespace has {bytes} bytes, the limit is {max}");
        return Err(Denied::new(Code::BadRequest, text));
    }
    Ok(names::full_name(&namespace, name))
}

/// The topic of a queue if it is one of an instance: its messages are told with both parts of its name.
pub(crate) fn of_instance(queue: Option<&v2::MessageQueue>) -> Option<v2::Resource> {
    queue?.topic.as_ref().filter(|topic| !topic.resource_namespace.is_empty()).cloned()
}

/// The bare name within `namespace` of what all protocols know by `full`. That of another namespace is left whole.
pub(crate) fn bare_name<'a>(namespace: &str, full: &'a str) -> &'a str {
    if namespace.is_empty() {
        return full;
    }
    full.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('%')).unwrap_or(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_namespace_in_front() {
        let resource = |namespace: &str| v2::Resource { resource_namespace: namespace.into(), name: "orders".into() };
        assert_eq!(topic_name(Some(resource(""))).unwrap(), "orders");
        assert_eq!(topic_name(Some(resource("MQ_INST_1"))).unwrap(), "MQ_INST_1%orders");
        assert_eq!(topic_name(None::<v2::Resource>).unwrap_err().code, Code::IllegalTopic);
        assert_eq!(group_name(Some(resource(&"n".repeat(200)))).unwrap_err().code, Code::BadRequest);
        for (namespace, full, bare) in
            [("", "I%orders", "I%orders"), ("I", "I%orders", "orders"), ("I", "J%orders", "J%orders"), ("I", "I", "I")]
        {
            assert_eq!(bare_name(namespace, full), bare);
        }
    }
}
