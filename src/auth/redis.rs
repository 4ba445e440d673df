//! Accounts in Redis: a hash `<prefix>:<user>` with the field `password_hash`, written as in
//! the password file, and if wanted `acl`, lines of `[read|write|readwrite|deny] <topic>`. In a
//! Redis Cluster each account is where its own key's slot is.

use std::collections::HashMap;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    AsyncTypedCommands as _, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo,
};
use tokio::sync::Mutex;

use super::acl::{Template, access_and_topic};
use super::password::Stored;
use crate::config;
use crate::link::cluster::Masters;

/// The way to the accounts. Scope: node.
pub(crate) struct Accounts {
    way: Way,
    prefix: String,
}

enum Way {
    One(One),
    Cluster(Masters),
}

/// One connection that is made anew when it breaks.
struct One {
    client: Client,
    timeouts: ConnectionManagerConfig,
    connection: Mutex<Option<ConnectionManager>>,
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
        let way = match redis.is_cluster() {
            true => Way::Cluster(Masters::new(redis)),
            false => Way::One(One::new(redis)?),
        };
        Ok(Self { way, prefix: prefix.to_owned() })
    }

    /// The account of `user`; `None` if Redis has none.
    ///
    /// # Errors
    /// That Redis could not be asked, or has something there that is no account.
    pub(crate) async fn get(&self, user: &str) -> Result<Option<Account>, String> {
        let key = format!("{}:{user}", self.prefix);
        let fields = self.fields(&key).await.map_err(|error| error.to_string())?;
        let Some(hash) = fields.get("password_hash") else { return Ok(None) };
        let stored = Stored::parse(hash).ok_or_else(|| format!("{key}: no known hash"))?;
        let rules = fields.get("acl").map(|text| rules(text).ok_or_else(|| format!("{key}: acl")));
        Ok(Some(Account { stored, rules: rules.transpose()? }))
    }

    async fn fields(&self, key: &str) -> redis::RedisResult<HashMap<String, String>> {
        match &self.way {
            Way::One(one) => one.connection().await?.hgetall(key).await,
            Way::Cluster(masters) => {
                let mut command = redis::pipe();
                command.cmd("HGETALL").arg(key);
                let [fields] = masters.run(key, &command).await?;
                Ok(fields)
            }
        }
    }
}

impl One {
    fn new(redis: &config::Redis) -> Result<Self, String> {
        let address = ConnectionAddr::Tcp(redis.host.clone(), redis.port);
        let mut account = RedisConnectionInfo::default().set_db(i64::from(redis.database));
        if !redis.username.is_empty() {
            account = account.set_username(&redis.username);
        }
        if !redis.password.is_empty() {
            account = account.set_password(redis.password.reveal());
        }
        let info = address.into_connection_info().map_err(|error| error.to_string())?;
        let client = Client::open(info.set_redis_settings(account));
        let wait = |time: std::time::Duration| (!time.is_zero()).then_some(time);
        let timeouts = ConnectionManagerConfig::new()
            .set_response_timeout(wait(redis.timeout))
            .set_connection_timeout(wait(redis.connect_timeout))
            .set_number_of_retries(1);
        Ok(Self {
            client: client.map_err(|error| error.to_string())?,
            timeouts,
            connection: Mutex::new(None),
        })
    }

    async fn connection(&self) -> redis::RedisResult<ConnectionManager> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let made = self.client.get_connection_manager_with_config(self.timeouts.clone()).await?;
        Ok(connection.insert(made).clone())
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
