//! Reading keys of one's own, which have nothing to do with a group: from wherever `redis` in the
//! configuration says that Redis is, the same as the group's link.
//!
//! Not a [`super::Link`]: nobody is told of an outage, and a command may be carried out twice. So
//! this is for what only reads.
//!
//! Scope: node.

use redis::{
    AsyncConnectionConfig, FromRedisValue, Pipeline, RedisError, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use super::{Dialer, cluster::Masters, is_of_the_link, timeouts};
use crate::config;

/// See the module.
pub(crate) enum Lookup {
    One(Box<One>),
    /// Each key where its own slot is.
    Cluster(Box<Masters>),
}

/// One connection, made when it is first needed, and anew when it is lost.
pub(crate) struct One {
    dialer: Dialer,
    config: AsyncConnectionConfig,
    /// And how many there were before it.
    connection: Mutex<(Option<MultiplexedConnection>, u64)>,
}

impl Lookup {
    /// # Errors
    /// What in `config` no connection can be made of.
    pub(crate) fn new(config: &config::Redis) -> Result<Self, RedisError> {
        if config.is_cluster() {
            return Ok(Self::Cluster(Box::new(Masters::new(config))));
        }
        Ok(Self::One(Box::new(One {
            dialer: Dialer::new(config, "")?,
            config: timeouts(config.timeout, config.connect_timeout),
            connection: Mutex::default(),
        })))
    }

    /// Carries out commands that are all about `key`.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        key: &str,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        match self {
            Self::One(one) => one.run(commands).await,
            Self::Cluster(masters) => masters.run(key, commands).await,
        }
    }
}

impl One {
    /// Once more on a new connection if the old one was lost, as it is after a fail-over.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        let mut is_last = false;
        loop {
            let (mut connection, number) = self.connection().await?;
            let error = match commands.query_async(&mut connection).await {
                Err(error) if is_of_the_link(&error) => error,
                answer => return answer,
            };
            self.forget(number).await;
            if is_last || error.is_timeout() {
                return Err(error);
            }
            is_last = true;
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let (connection, number) = &mut *self.connection.lock().await;
        if let Some(connection) = connection {
            return Ok((connection.clone(), *number));
        }
        let made = self.dialer.dial(&self.config).await?;
        *number += 1;
        Ok((connection.insert(made).clone(), *number))
    }

    /// This one is of no more use; others may have seen that before.
    async fn forget(&self, lost: u64) {
        let (connection, number) = &mut *self.connection.lock().await;
        if *number == lost {
            *connection = None;
        }
    }
}
