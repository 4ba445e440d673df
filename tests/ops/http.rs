//! The smallest HTTP client: one request, one connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;

pub(crate) struct Http {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<&'static str>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Http {
    pub(crate) fn get(&self, path: &str) -> Result<Answer, Failed> {
        self.ask("GET", path, &[], "")
    }

    /// A resource of the API, which is to answer with 200.
    pub(crate) fn api(&self, resource: &str) -> Result<Value, Failed> {
        let answer = self.get(&format!("/api/v1/{resource}"))?;
        match answer.status {
            200 => Ok(serde_json::from_str(&answer.body)?),
            status => Err(format!("{resource}: {status} {}", answer.body).into()),
        }
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Result<Answer, Failed> {
        self.ask("POST", path, &["Content-Type: application/json"], body)
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> Result<Answer, Failed> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        request.push_str(&format!("Host: {}\r\n", self.address));
        if let Some(token) = self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no end of the headers")?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }
}
