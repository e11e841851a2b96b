//! Access control: who may do what. Accounts are an option of the broker; users and policies are in the catalog.

use crate::broker::catalog_refusal;
use crate::{Broker, Refusal};
use martlet_auth::{Access, Accounts, Entry, Pattern, Policies, PolicyKind, User};
use martlet_cluster::{Catalog, ChangeError, UserChange};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who may do what.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// Super users that are there from the start.
    pub accounts: Accounts,
    /// Whether users that are not super users need policies.
    pub authorization: bool,
}

/// Users and policies at one moment; see [`Broker::access`].
pub struct AccessNow<'a> {
    options: &'a AccessOptions,
    catalog: Arc<Catalog>,
}

impl AccessNow<'_> {
    /// What they say.
    pub fn get(&self) -> Access<'_> {
        Access {
            accounts: &self.options.accounts,
            users: self.catalog.users(),
            policies: self.catalog.policies(),
            authorization: self.options.authorization,
        }
    }

    /// Users made at run time, by name.
    pub fn users(&self) -> &BTreeMap<String, User> {
        self.catalog.users()
    }

    /// Super users from the start, by name.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.options.accounts.keys()
    }

    /// What users may do, by name.
    pub fn policies(&self) -> &BTreeMap<String, Policies> {
        self.catalog.policies()
    }
}

impl Broker {
    /// Users and policies at this moment; `None`: access control is off, and everybody may do everything. Waits for no change.
    pub fn access(&self) -> Option<AccessNow<'_>> {
        let options = self.inner.options.access.as_ref()?;
        Some(AccessNow { options, catalog: self.inner.catalog.snapshot() })
    }

    /// Whether access control is on.
    pub fn has_access_control(&self) -> bool {
        self.inner.options.access.is_some()
    }

    /// Makes a user, durably.
    pub async fn create_user(&self, name: &str, said: &UserChange) -> Result<(), Refusal> {
        self.change_access(name, |catalog| catalog.create_user(name, said)).await
    }

    /// Changes what is said of a user, durably.
    pub async fn update_user(&self, name: &str, said: &UserChange) -> Result<(), Refusal> {
        self.change_access(name, |catalog| catalog.update_user(name, said)).await
    }

    /// Removes a user and its policies, durably. One that is not there is removed already.
    pub async fn delete_user(&self, name: &str) -> Result<(), Refusal> {
        let delete = |catalog: &mut Catalog| {
            catalog.delete_user(name);
            Ok(())
        };
        self.change_access(name, delete).await
    }

    /// Adds entries to the policies of a user, durably; one with the same pattern takes the other's place.
    pub async fn put_policies(&self, user: &str, entries: &[(PolicyKind, Entry)]) -> Result<(), Refusal> {
        self.change_access(user, |catalog| catalog.put_policies(user, entries)).await
    }

    /// Removes the entry with a pattern from one of the policies of a user, or without a pattern both policies, durably.
    pub async fn delete_policies(&self, user: &str, of: Option<(PolicyKind, &Pattern)>) -> Result<(), Refusal> {
        self.change_access(user, |catalog| catalog.delete_policies(user, of)).await
    }

    async fn change_access(
        &self,
        user: &str,
        change: impl FnMut(&mut Catalog) -> Result<(), ChangeError>,
    ) -> Result<(), Refusal> {
        // Else whoever comes before it is switched on could make users for the time after.
        let options = self.inner.options.access.as_ref().ok_or(Refusal::NoAccessControl)?;
        if options.accounts.secret(user).is_some() {
            let rule = "is an account of the file of accounts, and is changed there";
            return Err(Refusal::Setting { field: "username", value: user.to_owned(), rule });
        }
        self.inner.catalog.change(change).await.map(drop).map_err(catalog_refusal)
    }
}
