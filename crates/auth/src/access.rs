//! Users and policies at one moment, and what they say about a request.

use crate::accounts::Accounts;
use crate::cut;
use crate::pattern::{Resource, ResourceKind};
use crate::policy::{Action, Decision, Policies};
use crate::user::{Secret, User, UserKind};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a request needs: one of some actions on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    /// What is asked for.
    pub resource: Resource<'a>,
    /// One of them is enough.
    pub actions: &'static [Action],
}

impl<'a> Need<'a> {
    /// One of these actions on a topic.
    pub fn topic(name: &'a str, actions: &'static [Action]) -> Self {
        Self { resource: Resource { kind: ResourceKind::Topic, name }, actions }
    }

    /// One of these actions on a group.
    pub fn group(name: &'a str, actions: &'static [Action]) -> Self {
        Self { resource: Resource { kind: ResourceKind::Group, name }, actions }
    }

    /// One of these actions on the broker as a whole.
    pub fn cluster(name: &'a str, actions: &'static [Action]) -> Self {
        Self { resource: Resource { kind: ResourceKind::Cluster, name }, actions }
    }
}

/// Why a request is refused. The texts name the user, never a secret or a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is not signed.
    #[error("the request is not signed: {missing} is missing or empty, and this broker takes signed requests only")]
    Anonymous {
        /// The field or header.
        missing: &'static str,
    },
    /// What carries the signature cannot be read.
    #[error("{field} {rule}")]
    Unreadable {
        /// The field or header. Its value is not shown: it may be a password of another scheme.
        field: &'static str,
        /// What it breaks.
        rule: &'static str,
    },
    /// There is no such user.
    #[error("user {name:?} is not known")]
    UnknownUser {
        /// Its name (access key), cut.
        name: String,
    },
    /// The user is disabled.
    #[error("user {name:?} is disabled")]
    Disabled {
        /// Its name.
        name: String,
    },
    /// The signature is not that of this request by this user.
    #[error("the signature is not that of this request by user {name:?}: its secret is another one")]
    Signature {
        /// Its name.
        name: String,
    },
    /// The user's policies do not allow it.
    #[error("user {name:?} has no permission to {actions} {resource} from {source_ip}: {reason}")]
    NotPermitted {
        /// Its name.
        name: String,
        /// What it wants to do, one of which it would need.
        actions: String,
        /// With what.
        resource: String,
        /// From where.
        source_ip: IpAddr,
        /// Whether a policy denies it, or none allows it.
        reason: &'static str,
    },
    /// Only super users may.
    #[error("user {name:?} is not a super user, which {what} needs")]
    NotSuper {
        /// Its name.
        name: String,
        /// What it wants to do.
        what: &'static str,
    },
}

/// Users and policies at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Super users that the file of accounts names. They come before users of the same name.
    pub accounts: &'a Accounts,
    /// Users made at run time.
    pub users: &'a BTreeMap<String, User>,
    /// By user.
    pub policies: &'a BTreeMap<String, Policies>,
    /// Whether policies are looked at; else whoever signs may send and consume.
    pub authorization: bool,
}

/// Who a request is from.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    name: &'a str,
    is_super: bool,
    authorization: bool,
    policies: Option<&'a Policies>,
}

impl<'a> Access<'a> {
    /// Who has signed the request: a user whose secret gives `signature` for the parts, one after the other. An empty name is nobody;
    /// `missing` is what a refusal calls where it is carried.
    pub fn authenticate<'p>(
        &self,
        name: &'a str,
        missing: &'static str,
        parts: impl IntoIterator<Item = &'p [u8]>,
        signature: &[u8],
    ) -> Result<Caller<'a>, AccessError> {
        let (caller, secret) = self.find(name, missing)?;
        match secret.has_signed(parts, signature) {
            true => Ok(caller),
            false => Err(AccessError::Signature { name: cut(name) }),
        }
    }

    /// Who a request says it is from, of which the signature cannot be checked.
    pub fn named(&self, name: &'a str, missing: &'static str) -> Result<Caller<'a>, AccessError> {
        self.find(name, missing).map(|(caller, _)| caller)
    }

    fn find(&self, name: &'a str, missing: &'static str) -> Result<(Caller<'a>, &'a Secret), AccessError> {
        if name.is_empty() {
            return Err(AccessError::Anonymous { missing });
        }
        let caller =
            |is_super| Caller { name, is_super, authorization: self.authorization, policies: self.policies.get(name) };
        if let Some(secret) = self.accounts.secret(name) {
            return Ok((caller(true), secret));
        }
        match self.users.get(name) {
            None => Err(AccessError::UnknownUser { name: cut(name) }),
            Some(user) if !user.enabled => Err(AccessError::Disabled { name: cut(name) }),
            Some(user) => Ok((caller(user.kind == UserKind::Super), &user.secret)),
        }
    }
}

impl Caller<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Whether it may do everything.
    pub fn is_super(&self) -> bool {
        self.is_super
    }

    /// Whether its policies are looked at.
    pub fn is_bound(&self) -> bool {
        self.authorization && !self.is_super
    }

    /// Whether it may do what is needed, from where it is.
    pub fn permit(&self, need: &Need<'_>, source: IpAddr) -> Result<(), AccessError> {
        if !self.is_bound() {
            return Ok(());
        }
        let reason = match self.policies.and_then(|policies| policies.decide(need, source)) {
            Some(Decision::Allow) => return Ok(()),
            Some(Decision::Deny) => "a policy denies it",
            None => "no policy is about it",
        };
        let actions: Vec<&str> = need.actions.iter().map(|action| action.name()).collect();
        Err(AccessError::NotPermitted {
            name: cut(self.name),
            actions: actions.join(" or "),
            resource: need.resource.to_string(),
            source_ip: source.to_canonical(),
            reason,
        })
    }

    /// Whether it is a super user, which `what` needs.
    pub fn permit_super(&self, what: &'static str) -> Result<(), AccessError> {
        match self.is_super {
            true => Ok(()),
            false => Err(AccessError::NotSuper { name: cut(self.name), what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Entry, PolicyKind};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    /// HMAC-SHA1 of the empty text by `key`.
    const EMPTY_BY_KEY: &str = "f42bb0eeb018ebbd4597ae7213711ec60760843f";

    fn signature() -> Vec<u8> {
        (0..20).map(|at| u8::from_str_radix(&EMPTY_BY_KEY[2 * at..][..2], 16).unwrap()).collect()
    }

    fn user(kind: UserKind, enabled: bool) -> User {
        User { secret: Secret::new("key"), kind, enabled }
    }

    #[test]
    fn only_known_users_that_are_enabled_are_somebody() {
        let accounts = Accounts::parse("root key\ntwice other").unwrap();
        let users = [
            ("normal", user(UserKind::Normal, true)),
            ("off", user(UserKind::Super, false)),
            ("twice", user(UserKind::Normal, true)),
        ];
        let users = users.map(|(name, user)| (name.to_owned(), user)).into();
        let policies = BTreeMap::new();
        let access = Access { accounts: &accounts, users: &users, policies: &policies, authorization: true };
        let signed = |name| access.authenticate(name, "AccessKey", [&b""[..]], &signature());
        assert!(signed("root").unwrap().is_super());
        assert!(!signed("normal").unwrap().is_super());
        assert_eq!(signed("").unwrap_err(), AccessError::Anonymous { missing: "AccessKey" });
        assert!(matches!(signed("nobody"), Err(AccessError::UnknownUser { .. })));
        assert!(matches!(signed("off"), Err(AccessError::Disabled { .. })));
        // The account's secret counts, not that of the user.
        assert!(matches!(signed("twice"), Err(AccessError::Signature { .. })));
        assert!(matches!(
            access.authenticate("root", "", [&b"x"[..]], &signature()),
            Err(AccessError::Signature { .. })
        ));
    }

    #[test]
    fn normal_users_need_a_policy_where_policies_are_looked_at() {
        let (accounts, users) = (Accounts::default(), [("a".to_owned(), user(UserKind::Normal, true))].into());
        let mut own = Policies::default();
        let (resource, actions) = ("Topic:orders".parse().unwrap(), vec![Action::Pub]);
        own.put(PolicyKind::Custom, Entry { resource, actions, sources: Vec::new(), decision: Decision::Allow })
            .unwrap();
        let policies = [("a".to_owned(), own)].into();
        let of = |authorization| Access { accounts: &accounts, users: &users, policies: &policies, authorization };
        let other = Need::topic("other", &[Action::Pub, Action::Get]);
        let caller = of(true).named("a", "").unwrap();
        assert_eq!(caller.permit(&Need::topic("orders", &[Action::Pub]), HERE), Ok(()));
        let refused = caller.permit(&other, HERE).unwrap_err().to_string();
        let text = "user \"a\" has no permission to Pub or Get Topic:other from 127.0.0.1: no policy is about it";
        assert_eq!(refused, text);
        assert!(caller.permit_super("this").is_err());
        assert_eq!(of(false).named("a", "").unwrap().permit(&other, HERE), Ok(()));
        assert!(of(false).named("a", "").unwrap().permit_super("this").is_err());
    }
}
