//! Accounts in Redis: a hash `<prefix>:<user>` with the field `password_hash`, written as in
//! the password file, and if wanted `acl`, lines of `[read|write|readwrite|deny] <topic>`. In a
//! Redis Cluster each account is where its own key's slot is.

use std::collections::HashMap;

use super::acl::{Template, access_and_topic};
use super::password::Stored;
use crate::config;
use crate::link::lookup::Lookup;

/// The way to the accounts. Scope: node.
pub(crate) struct Accounts {
    redis: Lookup,
    prefix: String,
}

/// One account as Redis has it.
pub(crate) struct Account {
    pub(crate) stored: Stored,
    pub(crate) rules: Option<Vec<Template>>,
}

impl Accounts {
    /// # Errors
    /// That the address is none.
    pub(crate) fn new(redis: &config::Redis, prefix: &str) -> Result<Self, String> {
        let redis = Lookup::new(redis).map_err(|error| error.to_string())?;
        Ok(Self { redis, prefix: prefix.to_owned() })
    }

    /// The account of `user`; `None` if Redis has none.
    ///
    /// # Errors
    /// That Redis could not be asked, or has something there that is no account.
    pub(crate) async fn get(&self, user: &str) -> Result<Option<Account>, String> {
        let key = format!("{}:{user}", self.prefix);
        let mut command = redis::pipe();
        command.cmd("HGETALL").arg(&key);
        let fields = self.redis.run(&key, &command).await.map_err(|error| error.to_string());
        let [fields]: [HashMap<String, String>; 1] = fields?;
        let Some(hash) = fields.get("password_hash") else { return Ok(None) };
        let stored = Stored::parse(hash).ok_or_else(|| format!("{key}: no known hash"))?;
        let rules = fields.get("acl").map(|text| rules(text).ok_or_else(|| format!("{key}: acl")));
        Ok(Some(Account { stored, rules: rules.transpose()? }))
    }
}

fn rules(text: &str) -> Option<Vec<Template>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| access_and_topic(line, true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_that_cannot_be_read_spoils_all() {
        assert_eq!(rules("read a/#\n\n deny b\n").map(|rules| rules.len()), Some(2));
        assert_eq!(rules("read a/#\ndeny a/#/b"), None);
        assert_eq!(rules(""), Some(vec![]));
    }
}
