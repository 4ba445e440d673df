//! An HTTP endpoint that decides: one POST with JSON per client, one answer in JSON.
//!
//! Asked: `{"client", "user", "password", "address", "certificate"}`; `null` where there is
//! none, and a password that is no UTF-8 in `password_base64`. Answered with 200:
//!
//! ```json
//! {"result": "allow", "user": "roger", "expires": 1893456000,
//!  "acl": [{"verdict": "allow", "action": "subscribe", "topic": "a/%c/#"}]}
//! ```
//!
//! `result` is `allow`, `deny` or `ignore`, all else may be left out. 401 and 403 deny as well.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use octopus_engine::{Action, Verdict};
use octopus_mqtt::{ReasonCode, TopicFilter};
use serde::{Deserialize, Serialize};

use super::acl::Template;
use super::credentials::{Credentials, Grant, Opinion};

/// An answer above this many bytes is not read.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Keeps connections to the endpoint. Cheap to clone. Scope: node.
#[derive(Clone)]
pub(crate) struct Http {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

#[derive(Serialize)]
struct Question<'a> {
    client: &'a str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<String>,
    address: Option<std::net::IpAddr>,
    certificate: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    result: Word,
    user: Option<String>,
    /// Seconds since 1970.
    expires: Option<u64>,
    acl: Option<Vec<AnswerRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
    Ignore,
}

#[derive(Deserialize)]
struct AnswerRule {
    verdict: AnswerVerdict,
    action: AnswerAction,
    topic: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerVerdict {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerAction {
    Publish,
    Subscribe,
    Both,
}

impl Http {
    /// # Errors
    /// That the URL is none, or that this machine has no root certificates for `https`.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let roots = HttpsConnectorBuilder::new().with_native_roots();
        let roots = roots.map_err(|error| format!("no root certificates: {error}"))?;
        let connector = roots.https_or_http().enable_http1().build();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_MAX);
        Ok(Self { uri, client: builder.build(connector) })
    }

    /// Asks about one client. The caller sets the time.
    pub(crate) async fn ask(&self, who: &Credentials) -> Opinion {
        match self.exchange(who).await {
            Ok(opinion) => opinion,
            Err(cause) => Opinion::Failed(cause.into()),
        }
    }

    async fn exchange(&self, who: &Credentials) -> Result<Opinion, String> {
        let body = serde_json::to_vec(&question(who)).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| error.to_string())?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(denied()),
            status => return Err(format!("answered {status}")),
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let answer = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        opinion(answer)
    }
}

fn denied() -> Opinion {
    Opinion::Refused(ReasonCode::BadUserNameOrPassword)
}

fn question(who: &Credentials) -> Question<'_> {
    let bytes = who.password.as_deref();
    let password = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    Question {
        client: &who.client,
        user: who.user.as_deref(),
        password,
        password_base64: bytes.filter(|_| password.is_none()).map(|b| STANDARD.encode(b)),
        address: who.address,
        certificate: who.certificate.as_deref(),
    }
}

fn opinion(answer: Answer) -> Result<Opinion, String> {
    match answer.result {
        Word::Deny => return Ok(denied()),
        Word::Ignore => return Ok(Opinion::None),
        Word::Allow => {}
    }
    // A rule that cannot be read may be a denial: better no answer than half of one.
    let rules = answer.acl.map(|rules| rules.into_iter().map(template).collect()).transpose()?;
    let expires =
        answer.expires.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
    let user = answer.user.map(Into::into);
    Ok(Opinion::Granted(Grant { user, rules, expires, ..Grant::default() }))
}

fn template(rule: AnswerRule) -> Result<Template, String> {
    if TopicFilter::parse(&rule.topic).is_err() {
        return Err(format!("{:?} is no topic filter", rule.topic));
    }
    let verdict = match rule.verdict {
        AnswerVerdict::Allow => Verdict::Allow,
        AnswerVerdict::Deny => Verdict::Deny,
    };
    let action = match rule.action {
        AnswerAction::Publish => Action::Publish,
        AnswerAction::Subscribe => Action::Subscribe,
        AnswerAction::Both => Action::Both,
    };
    Ok(Template { verdict, action, filter: rule.topic.into(), substitutes: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Opinion, String> {
        opinion(serde_json::from_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn an_answer_is_read_as_a_whole_or_not_at_all() {
        assert!(matches!(read(r#"{"result":"deny"}"#), Ok(Opinion::Refused(_))));
        assert!(matches!(read(r#"{"result":"ignore"}"#), Ok(Opinion::None)));
        let allowed = read(
            "{\"result\":\"allow\",\"user\":\"u\",\"acl\":[{\"verdict\":\"deny\",\"action\":\"bot\
             h\",\"topic\":\"a/#\"}]}",
        );
        let Ok(Opinion::Granted(grant)) = allowed else { panic!("{allowed:?}") };
        assert_eq!(
            (grant.user.as_deref(), grant.rules.map(|rules| rules.len())),
            (Some("u"), Some(1))
        );
        for bad in [
            r#"{"result":"maybe"}"#,
            r#"{"result":"allow","acl":[{"verdict":"deny","action":"both","topic":"a/#/b"}]}"#,
            r#"{"result":"allow","acl":[{"verdict":"deny","topic":"a"}]}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_that_is_no_text_is_sent_in_base64() {
        let password = Some(Box::from(*b"\xff\x00"));
        let who = Credentials { client: "c".into(), password, ..Credentials::default() };
        let text = serde_json::to_string(&question(&who)).expect("serialised");
        assert!(text.contains(r#""password":null,"password_base64":"/wA=""#), "{text}");
    }
}
