//! The server: accepts, bounds, dispatches.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Method, Request, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use super::{
    App, Caller, api, dashboard,
    request::Asked,
    respond::{self, Answer, Refused},
};

/// Connections served at a time; more wait in the kernel.
const CONNECTIONS_MAX: usize = 256;
/// From the first byte of a request to the end of its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For one request, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// After an accept that failed.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Serves until the process ends. `stopping` turns true when the node begins to stop: it is
/// not ready any more from then on.
pub async fn serve(listener: TcpListener, app: Arc<App>, stopping: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let caller = Caller { address, app: Arc::clone(&app), stopping: stopping.clone() };
                tokio::spawn(async move {
                    connection(stream, caller).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the HTTP server cannot be accepted");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, caller: Caller) {
    let service = service_fn(move |request| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(respond_in_time(request, caller).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // How a client of this server goes away is its own matter.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond_in_time(request: Request<Incoming>, caller: Caller) -> Answer {
    let late = || Refused::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").answer();
    tokio::time::timeout(REQUEST_TIMEOUT, dispatch(request, caller))
        .await
        .unwrap_or_else(|_| late())
}

async fn dispatch(request: Request<Incoming>, caller: Caller) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(rest) = path.strip_prefix("/api/v1")
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return guarded(head, body, caller).await.unwrap_or_else(|refused| refused.answer());
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Refused::new(StatusCode::METHOD_NOT_ALLOWED, "only GET").answer();
    }
    match path {
        "/" => respond::with_type(StatusCode::OK, "text/html; charset=utf-8", dashboard::PAGE),
        "/metrics" => {
            let accept = head.headers.get(hyper::header::ACCEPT);
            metrics(&caller, accept.and_then(|value| value.to_str().ok()).unwrap_or("")).await
        }
        "/healthz" => respond::json(StatusCode::OK, &json!({ "status": "ok" })),
        "/readyz" => ready(&caller).await,
        _ => Refused::not_found("there is no such page").answer(),
    }
}

async fn guarded(
    head: hyper::http::request::Parts,
    body: Incoming,
    caller: Caller,
) -> Result<Answer, Refused> {
    let is_public = head.uri.path() == "/api/v1/openapi.json";
    if !is_public {
        let checked = caller.app.access.check(caller.address, &head.method, &head.headers);
        checked.map_err(|(status, what)| Refused::new(status, what))?;
    }
    let asked = Asked::read(head, body).await?;
    api::answer(&asked, &caller.app).await
}

async fn metrics(caller: &Caller, accept: &str) -> Answer {
    match caller.app.stats().await {
        Some(shards) => {
            let (content_type, text) = (caller.app.metrics)(&shards, accept);
            respond::with_type(StatusCode::OK, content_type, text)
        }
        None => Refused::unavailable().answer(),
    }
}

async fn ready(caller: &Caller) -> Answer {
    let mut missing = caller.app.readiness.missing();
    if *caller.stopping.borrow() {
        missing.push("stopping");
    } else if caller.app.stats().await.is_none() {
        missing.push("shards");
    }
    match missing.is_empty() {
        true => respond::json(StatusCode::OK, &json!({ "status": "ready" })),
        false => {
            let body = json!({ "status": "not ready", "missing": missing });
            respond::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}
