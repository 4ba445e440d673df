//! Asks a node's admin API: one request, one connection.

use std::{io, net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{config::Config, pages};

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API is and what it asks for, as the configuration says.
pub(super) struct Api {
    runtime: tokio::runtime::Runtime,
    authority: String,
    token: String,
}

impl Api {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let host = match config.http.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "[::1]".to_owned(),
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => config.http.host.clone(),
        };
        let authority = format!("{host}:{}", config.http.port);
        Ok(Self { runtime, authority, token: pages::token(&config.http)? })
    }

    /// - `resource`: below `/api/v1/`, encoded.
    pub(super) fn get(&self, resource: &str) -> io::Result<Value> {
        self.ask(&Method::GET, resource, None)
    }

    pub(super) fn post(&self, resource: &str, body: &Value) -> io::Result<Value> {
        self.ask(&Method::POST, resource, Some(body))
    }

    pub(super) fn delete(&self, resource: &str) -> io::Result<Value> {
        self.ask(&Method::DELETE, resource, None)
    }

    /// Waits a while; `true` if Ctrl-C came meanwhile.
    pub(super) fn is_interrupted_within(&self, time: Duration) -> bool {
        let interrupted = async { tokio::time::timeout(time, tokio::signal::ctrl_c()).await };
        self.runtime.block_on(interrupted).is_ok()
    }

    fn ask(&self, method: &Method, resource: &str, body: Option<&Value>) -> io::Result<Value> {
        let asked = self.request(method, resource, body);
        let answered = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, asked).await });
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    "; is octopus running? Its admin API is where http.host and http.port say"
                }
                _ => "",
            };
            io::Error::new(error.kind(), format!("http://{}: {error}{hint}", self.authority))
        })
    }

    async fn request(
        &self,
        method: &Method,
        resource: &str,
        body: Option<&Value>,
    ) -> io::Result<Value> {
        let stream = TcpStream::connect(&self.authority).await?;
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{resource}"))
            .header(header::HOST, &self.authority);
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::<Bytes>::from(body)).map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let value: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        match (status, value["error"].as_str()) {
            (StatusCode::OK, _) => Ok(value),
            (_, Some(why)) => Err(io::Error::other(why.to_owned())),
            (status, None) => Err(io::Error::other(status.to_string())),
        }
    }
}

/// Percent-encodes all but letters, digits and `-_.~`.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
