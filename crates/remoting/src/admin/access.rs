//! Users, and what they may do.

use super::invalid;
use crate::access::ACCESS_KEY;
use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::header::Header;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use martlet_broker::auth::{
    Action, Decision, Entry, Invalid, Pattern, Policies, PolicyKind, Secret, User, UserKind, cut,
};
use martlet_broker::{AccessNow, Refusal, UserChange};

/// What comes before the name of a user where policies are about it.
const USER: &str = "User:";
const ENABLED: &str = "enable";
const DISABLED: &str = "disable";

impl From<Invalid> for Denied {
    fn from(error: Invalid) -> Self {
        invalid(error.to_string())
    }
}

fn user_json(name: &str, user: &User, with_secret: bool) -> Json {
    let kind = if user.kind == UserKind::Super { "Super" } else { "Normal" };
    let secret = if with_secret { user.secret.reveal().into() } else { Json::Null };
    Json::object([
        ("password", secret),
        ("userStatus", if user.enabled { ENABLED } else { DISABLED }.into()),
        ("userType", kind.into()),
        ("username", name.into()),
    ])
}

/// What a request says of a user.
fn user_change(body: &[u8]) -> Result<UserChange, Denied> {
    let said = if body.is_empty() { Json::Null } else { Json::parse(body, "body")? };
    let text = |field| said.text(field).filter(|text| !text.trim().is_empty());
    let kind = match text("userType") {
        None => None,
        Some(kind) if kind.eq_ignore_ascii_case("Super") => Some(UserKind::Super),
        Some(kind) if kind.eq_ignore_ascii_case("Normal") => Some(UserKind::Normal),
        Some(other) => return Err(invalid(format!("userType {} is not Super or Normal", shown(other)))),
    };
    let enabled = match text("userStatus") {
        None => None,
        Some(status) if status.eq_ignore_ascii_case(ENABLED) => Some(true),
        Some(status) if status.eq_ignore_ascii_case(DISABLED) => Some(false),
        Some(other) => return Err(invalid(format!("userStatus {} is not {ENABLED} or {DISABLED}", shown(other)))),
    };
    Ok(UserChange { secret: text("password").map(Secret::new), kind, enabled })
}

fn entry_json(entry: &Entry) -> Json {
    let sources = match entry.sources.is_empty() {
        true => Json::Null,
        false => Json::list(entry.sources.iter().map(ToString::to_string)),
    };
    Json::object([
        ("actions", Json::list(entry.actions.iter().map(|action| action.name()))),
        ("decision", entry.decision.name().into()),
        ("resource", entry.resource.to_string().into()),
        ("sourceIps", sources),
    ])
}

/// The policies of a user, those entries that `wanted` takes; `None`: it takes none.
fn policies_json(user: &str, policies: &Policies, wanted: impl Fn(&Entry) -> bool) -> Option<Json> {
    let mut shown = Vec::new();
    for kind in [PolicyKind::Custom, PolicyKind::Default] {
        let entries: Vec<Json> = policies.entries(kind).iter().filter(|entry| wanted(entry)).map(entry_json).collect();
        if !entries.is_empty() {
            shown.push(Json::object([("entries", Json::List(entries)), ("policyType", kind.name().into())]));
        }
    }
    let object = |shown| Json::object([("policies", Json::List(shown)), ("subject", format!("{USER}{user}").into())]);
    (!shown.is_empty()).then(|| object(shown))
}

/// The entries that a request brings.
fn entries(body: &[u8]) -> Result<Vec<(PolicyKind, Entry)>, Denied> {
    let said = Json::parse(body, "body")?;
    let mut entries = Vec::new();
    for policy in super::listed(&said, "policies")? {
        let kind = PolicyKind::of(policy.text("policyType"))?;
        for entry in super::listed(policy, "entries")? {
            let text =
                |field: &str| entry.text(field).ok_or_else(|| invalid(format!("field {field} of an entry is missing")));
            let texts = |field| entry.items(field).iter().map(|item| item.scalar().unwrap_or("null").trim());
            let mut actions: Vec<Action> = Vec::new();
            for action in texts("actions") {
                let action = Action::of(action)?;
                if !actions.contains(&action) {
                    actions.push(action);
                }
            }
            let entry = Entry {
                resource: text("resource")?.trim().parse()?,
                actions,
                sources: texts("sourceIps").map(str::parse).collect::<Result<_, _>>()?,
                decision: Decision::of(text("decision")?.trim())?,
            };
            entries.push((kind, entry));
        }
    }
    Ok(entries)
}

/// The user that `subject` names.
fn subject<'a>(fields: &Fields<'a>) -> Result<&'a str, Denied> {
    let subject = fields.text("subject")?;
    let name = subject.get(..USER.len()).filter(|kind| kind.eq_ignore_ascii_case(USER));
    name.and_then(|_| subject.get(USER.len()..))
        .filter(|name| !name.is_empty())
        .ok_or_else(|| invalid(format!("field subject is {}, not {USER} and a name", shown(subject))))
}

impl Front {
    fn access_now(&self) -> Result<AccessNow<'_>, Denied> {
        self.broker.access().ok_or_else(|| Refusal::NoAccessControl.into())
    }

    /// Only super users say who is one, and change those that are.
    fn check_rank(&self, header: &Header, name: &str, said: &UserChange) -> Result<(), Denied> {
        let is_super = |user: &User| user.kind == UserKind::Super;
        let is_about_super =
            said.kind == Some(UserKind::Super) || self.access_now()?.users().get(name).is_some_and(is_super);
        if is_about_super && !self.is_by_super_user(header) {
            let by = shown(header.field(ACCESS_KEY).unwrap_or(""));
            let remark = format!("user {by} is not a super user, as who makes or changes one must be");
            return Err(Denied::new(response::NO_PERMISSION, remark));
        }
        Ok(())
    }

    /// Makes a user, or changes what a request says of one.
    pub(crate) async fn put_user(
        &self,
        header: &Header,
        fields: &Fields<'_>,
        body: &[u8],
        is_new: bool,
    ) -> Result<Answer, Denied> {
        let (name, said) = (fields.text("username")?, user_change(body)?);
        self.check_rank(header, name, &said)?;
        match is_new {
            true => self.broker.create_user(name, &said).await?,
            false => self.broker.update_user(name, &said).await?,
        }
        Ok(Answer::done())
    }

    /// Removes a user with its policies.
    pub(crate) async fn delete_user(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("username")?;
        self.check_rank(header, name, &UserChange::default())?;
        self.broker.delete_user(name).await?;
        Ok(Answer::done())
    }

    /// One user; no body if there is none. Its secret is for super users only.
    pub(crate) fn user(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (name, access) = (fields.text("username")?, self.access_now()?);
        let user = access.users().get(name).map(|user| user_json(name, user, self.is_by_super_user(header)));
        Ok(user.map_or_else(Answer::done, |user| Answer::json(&user)))
    }

    /// All users whose name has `filter` in it; no body if there is none.
    pub(crate) fn users(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (filter, access) = (fields.optional("filter").unwrap_or("").trim(), self.access_now()?);
        let with_secrets = self.is_by_super_user(header);
        let found = access.users().iter().filter(|(name, _)| name.contains(filter));
        Ok(list(found.map(|(name, user)| user_json(name, user, with_secrets)).collect()))
    }

    /// Adds entries to the policies of a user.
    pub(crate) async fn put_policies(&self, fields: &Fields<'_>, body: &[u8]) -> Result<Answer, Denied> {
        self.broker.put_policies(subject(fields)?, &entries(body)?).await?;
        Ok(Answer::done())
    }

    /// Removes the entry about a resource, or all of a user's policies.
    pub(crate) async fn delete_policies(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let user = subject(fields)?;
        let kind = PolicyKind::of(fields.optional("policyType"))?;
        let resource = fields.optional("resource").filter(|resource| !resource.trim().is_empty());
        let pattern = resource.map(|resource| resource.trim().parse::<Pattern>()).transpose()?;
        self.broker.delete_policies(user, pattern.as_ref().map(|pattern| (kind, pattern))).await?;
        Ok(Answer::done())
    }

    /// What a user may do; no body if it has no policy.
    pub(crate) fn policies(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (name, access) = (subject(fields)?, self.access_now()?);
        if !access.users().contains_key(name) {
            return Err(Refusal::UserNotFound { user: cut(name) }.into());
        }
        let found = access.policies().get(name).and_then(|policies| policies_json(name, policies, |_| true));
        Ok(found.map_or_else(Answer::done, |policies| Answer::json(&policies)))
    }

    /// What users may do whose name has `subjectFilter` in it, as far as a resource has `resourceFilter`; no body if that is nothing.
    pub(crate) fn all_policies(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (subjects, resources) =
            (fields.optional("subjectFilter").unwrap_or(""), fields.optional("resourceFilter").unwrap_or(""));
        let access = self.access_now()?;
        let found = access.policies().iter().filter(|(name, _)| format!("{USER}{name}").contains(subjects.trim()));
        let wanted = |entry: &Entry| entry.resource.to_string().contains(resources.trim());
        Ok(list(found.filter_map(|(name, policies)| policies_json(name, policies, wanted)).collect()))
    }
}

fn list(items: Vec<Json>) -> Answer {
    match items.is_empty() {
        true => Answer::done(),
        false => Answer::json(&Json::List(items)),
    }
}
