//! Users that were made at run time, and what they may do.

use crate::{Catalog, ChangeError};
use martlet_auth::{Entry, Pattern, Policies, PolicyKind, Secret, User, UserKind, check_name, check_secret, cut};
use std::collections::BTreeMap;

/// Most users.
pub const USERS_MAX: usize = 1_000;
/// Most entries of policies, over all users.
pub const POLICY_ENTRIES_MAX: usize = 10_000;

/// What is said of a user that is made or changed; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    /// What it signs with; a user that is made must have one.
    pub secret: Option<Secret>,
    /// What it is; [`UserKind::Normal`] if a user is made without.
    pub kind: Option<UserKind>,
    /// Whether its signatures are taken; they are if a user is made without.
    pub enabled: Option<bool>,
}

fn not_found(name: &str) -> ChangeError {
    ChangeError::UserNotFound { user: cut(name) }
}

impl Catalog {
    /// All users by name.
    pub fn users(&self) -> &BTreeMap<String, User> {
        &self.users
    }

    /// The policies of users by name.
    pub fn policies(&self) -> &BTreeMap<String, Policies> {
        &self.policies
    }

    /// Makes a user.
    pub fn create_user(&mut self, name: &str, said: &UserChange) -> Result<(), ChangeError> {
        check_name("username", name)?;
        let secret = said.secret.clone().unwrap_or_else(|| Secret::new(""));
        check_secret("password", secret.reveal())?;
        if self.users.contains_key(name) {
            return Err(ChangeError::Exists { what: "user", name: name.to_owned() });
        }
        if self.users.len() >= USERS_MAX {
            return Err(ChangeError::Full { what: "users", limit: USERS_MAX });
        }
        let user = User { secret, kind: said.kind.unwrap_or_default(), enabled: said.enabled.unwrap_or(true) };
        self.users.insert(name.to_owned(), user);
        Ok(())
    }

    /// Changes what is said of a user.
    pub fn update_user(&mut self, name: &str, said: &UserChange) -> Result<(), ChangeError> {
        if let Some(secret) = &said.secret {
            check_secret("password", secret.reveal())?;
        }
        let user = self.users.get_mut(name).ok_or_else(|| not_found(name))?;
        if let Some(secret) = &said.secret {
            user.secret = secret.clone();
        }
        user.kind = said.kind.unwrap_or(user.kind);
        user.enabled = said.enabled.unwrap_or(user.enabled);
        Ok(())
    }

    /// Removes a user and its policies. One that is not there is removed already.
    pub fn delete_user(&mut self, name: &str) {
        self.users.remove(name);
        self.policies.remove(name);
    }

    /// Adds entries to the policies of a user, each in the place of the one with the same pattern if there is one.
    pub fn put_policies(&mut self, name: &str, entries: &[(PolicyKind, Entry)]) -> Result<(), ChangeError> {
        if !self.users.contains_key(name) {
            return Err(not_found(name));
        }
        let mut own = self.policies.get(name).cloned().unwrap_or_default();
        let before = own.len();
        for (kind, entry) in entries {
            own.put(*kind, entry.clone())?;
        }
        let all = self.policies.values().map(Policies::len).sum::<usize>() - before + own.len();
        if own.len() > before && all > POLICY_ENTRIES_MAX {
            return Err(ChangeError::Full { what: "entries of policies", limit: POLICY_ENTRIES_MAX });
        }
        if !own.is_empty() {
            self.policies.insert(name.to_owned(), own);
        }
        Ok(())
    }

    /// Removes the entry with a pattern from one of the policies of a user, or without a pattern both policies.
    pub fn delete_policies(&mut self, name: &str, of: Option<(PolicyKind, &Pattern)>) -> Result<(), ChangeError> {
        if !self.users.contains_key(name) {
            return Err(not_found(name));
        }
        let missing = |about: Option<&Pattern>| ChangeError::PolicyNotFound {
            user: cut(name),
            about: about.map(ToString::to_string),
        };
        let own = self.policies.get_mut(name).ok_or_else(|| missing(None))?;
        if let Some((kind, pattern)) = of {
            if !own.remove(kind, pattern) {
                return Err(missing(Some(pattern)));
            }
            if !own.is_empty() {
                return Ok(());
            }
        }
        self.policies.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_auth::{Action, Decision};

    fn with_secret(secret: &str) -> UserChange {
        UserChange { secret: Some(Secret::new(secret)), ..UserChange::default() }
    }

    fn entry(resource: &str) -> (PolicyKind, Entry) {
        let (resource, actions) = (resource.parse().unwrap(), vec![Action::Pub]);
        (PolicyKind::Custom, Entry { resource, actions, sources: Vec::new(), decision: Decision::Allow })
    }

    #[test]
    fn users_and_policies_are_made_changed_kept_and_removed() {
        let mut catalog = Catalog::default();
        catalog.create_user("ann", &with_secret("s")).unwrap();
        assert!(matches!(catalog.create_user("ann", &with_secret("s")), Err(ChangeError::Exists { .. })));
        assert!(matches!(catalog.create_user("a b", &with_secret("s")), Err(ChangeError::Setting { .. })));
        assert!(matches!(catalog.create_user("bob", &UserChange::default()), Err(ChangeError::Setting { .. })));
        let off = UserChange { enabled: Some(false), ..UserChange::default() };
        catalog.update_user("ann", &off).unwrap();
        let ann = &catalog.users()["ann"];
        assert_eq!((ann.secret.reveal(), ann.kind, ann.enabled), ("s", UserKind::Normal, false));
        assert!(matches!(catalog.update_user("bob", &off), Err(ChangeError::UserNotFound { .. })));
        catalog.put_policies("ann", &[entry("Topic:a"), entry("Topic:b")]).unwrap();
        assert!(matches!(catalog.put_policies("bob", &[entry("Topic:a")]), Err(ChangeError::UserNotFound { .. })));
        let read = Catalog::decode(0, &catalog.encode().unwrap()).unwrap();
        assert_eq!(read, catalog);
        assert!(!format!("{read:?}").contains("\"s\""));
        let (a, c) = ("Topic:a".parse().unwrap(), "Topic:c".parse().unwrap());
        let wrong = catalog.delete_policies("ann", Some((PolicyKind::Custom, &c))).unwrap_err();
        assert_eq!(wrong.to_string(), "user \"ann\" has no policy about Topic:c");
        catalog.delete_policies("ann", Some((PolicyKind::Custom, &a))).unwrap();
        assert_eq!(catalog.policies()["ann"].len(), 1);
        catalog.delete_policies("ann", None).unwrap();
        assert!(matches!(catalog.delete_policies("ann", None), Err(ChangeError::PolicyNotFound { about: None, .. })));
        catalog.put_policies("ann", &[entry("Topic:a")]).unwrap();
        catalog.delete_user("ann");
        assert!(catalog.users().is_empty() && catalog.policies().is_empty());
    }

    #[test]
    fn there_are_limits_over_all_users() {
        let mut catalog = Catalog::default();
        for number in 0..USERS_MAX {
            catalog.create_user(&number.to_string(), &with_secret("s")).unwrap();
        }
        assert!(matches!(catalog.create_user("more", &with_secret("s")), Err(ChangeError::Full { .. })));
        let many: Vec<_> = (0..1_000).map(|number| entry(&format!("Topic:{number}"))).collect();
        for user in 0..10 {
            catalog.put_policies(&user.to_string(), &many).unwrap();
        }
        assert!(matches!(catalog.put_policies("10", &many[..1]), Err(ChangeError::Full { .. })));
        catalog.put_policies("9", &many).unwrap();
    }
}
