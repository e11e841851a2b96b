//! KV configs: texts that tools keep in the name server, by namespace and key.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;

fn not_found(what: &str, namespace: &str) -> Denied {
    let remark = format!("no value of {} in namespace {}", shown(what), shown(namespace));
    Denied::new(response::QUERY_NOT_FOUND, remark)
}

impl Front {
    /// The value of a key.
    pub(crate) fn kv_config(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (namespace, key) = (fields.text("namespace")?, fields.text("key")?);
        let value = self.broker.kv_config(namespace, key);
        let value = value.ok_or_else(|| not_found(&format!("key {key}"), namespace))?;
        Ok(Answer::done().with("value", value))
    }

    /// Sets the value of a key.
    pub(crate) async fn put_kv_config(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        self.broker.put_kv_config(fields.text("namespace")?, fields.text("key")?, fields.text("value")?).await?;
        Ok(Answer::done())
    }

    /// Removes a key.
    pub(crate) async fn delete_kv_config(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        self.broker.delete_kv_config(fields.text("namespace")?, fields.text("key")?).await?;
        Ok(Answer::done())
    }

    /// All of a namespace.
    pub(crate) fn kv_configs(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let namespace = fields.text("namespace")?;
        let all = self.broker.kv_configs(namespace).ok_or_else(|| not_found("any key", namespace))?;
        let table = all.into_iter().map(|(key, value)| (Json::from(key), Json::from(value))).collect();
        Ok(Answer::json(&Json::object([("table", Json::Object(table))])))
    }
}
