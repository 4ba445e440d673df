//! Who asks to be let in, and what a backend may say about it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::SystemTime;

use octopus_engine::{AuthRequest, ListenerId};
use octopus_mqtt::ReasonCode;

use super::acl::Template;

/// What is known of a client before it is let in. Scope: one CONNECT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// Where it came in.
    pub(crate) listener: ListenerId,
    pub(crate) client: Box<str>,
    pub(crate) user: Option<Box<str>>,
    pub(crate) password: Option<Box<[u8]>>,
    pub(crate) address: Option<IpAddr>,
    /// The name in a verified client certificate.
    pub(crate) certificate: Option<Box<str>>,
}

impl Credentials {
    pub(crate) fn of(request: &AuthRequest) -> Self {
        Self {
            listener: request.remote.listener,
            client: request.client_id.clone(),
            user: request.user_name.clone(),
            password: request.password.clone(),
            // An IPv4 client of an IPv6 socket is the same client.
            address: request.remote.address.map(|address| address.ip().to_canonical()),
            certificate: request.remote.certificate.clone(),
        }
    }

    /// The user it is known as so far.
    pub(crate) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }
}

/// One backend's word on a client.
#[derive(Clone, Debug)]
pub(crate) enum Opinion {
    Granted(Grant),
    Refused(ReasonCode),
    /// It does not know this client; the next backend is asked.
    None,
    /// It could not tell; `auth.on_error` decides what follows.
    Failed(Cow<'static, str>),
    /// It has as much to do as it may; the client is told to come later (0x89).
    Busy,
}

/// What comes with a yes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The user the client is known as from here on, if the backend says so.
    pub(crate) user: Option<Box<str>>,
    /// Nobody has checked the User Name that the client sent: it counts as none.
    pub(crate) is_unproven: bool,
    /// Rules of the backend's own, which come before those of the ACL file.
    pub(crate) rules: Option<Vec<Template>>,
    /// When the right ends; the client is disconnected then.
    pub(crate) expires: Option<SystemTime>,
    /// What it rests on: when a reload takes this away, the client goes.
    pub(crate) proof: Proof,
}

/// What a right rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing that a reload can take away.
    #[default]
    Standing,
    /// This line's hash, in the password file.
    Account { user: Box<str>, stored: Box<str> },
    /// The key that signed the token, by its fingerprint.
    Key(Box<str>),
}
