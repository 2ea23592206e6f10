//! What is on each page. Nothing in a request is used but its method and path, whether it takes gzip, and its token if there has to be one.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Body,
    header::{
        ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap,
        HeaderValue, VARY, WWW_AUTHENTICATE,
    },
};

use crate::{
    agent::Handle,
    serve::{
        life,
        metrics::{self, Exporter},
        status::ShortStatus,
    },
};

/// How long the text of the metrics is handed out, unless there is a new sample before that.
const TEXT_TIME: Duration = Duration::from_secs(1);

/// What answers.
#[derive(Debug)]
pub(crate) struct Pages {
    agent: Handle,
    exporter: Exporter,
    text: RefCell<Option<Text>>,
}

/// The text of the metrics, which everybody gets who asks within a second.
#[derive(Debug)]
struct Text {
    /// Of which sample.
    of: Instant,
    made: Instant,
    bytes: Bytes,
    /// The same packed, once somebody took it so.
    gzip: Option<Bytes>,
}

impl Pages {
    pub(crate) const fn new(agent: Handle, exporter: Exporter) -> Self {
        Self {
            agent,
            exporter,
            text: RefCell::new(None),
        }
    }

    /// The text of the metrics: of the last sample, at most [`TEXT_TIME`] old.
    pub(super) fn metrics(&self) -> prometheus::Result<Bytes> {
        let of = self.agent.latest().at;
        let mut last = self.text.borrow_mut();
        if let Some(last) = &*last
            && last.of == of
            && last.made.elapsed() < TEXT_TIME
        {
            return Ok(last.bytes.clone());
        }
        let made = Instant::now();
        let text = Bytes::from(self.exporter.text()?);
        *last = Some(Text {
            of,
            made,
            bytes: text.clone(),
            gzip: None,
        });
        Ok(text)
    }

    /// The same text in gzip.
    fn packed_metrics(&self) -> prometheus::Result<Bytes> {
        let text = self.metrics()?;
        let mut last = self.text.borrow_mut();
        if let Some(packed) = last.as_ref().and_then(|last| last.gzip.clone()) {
            return Ok(packed);
        }
        let packed = gzip(&text)?;
        if let Some(last) = &mut *last {
            last.gzip = Some(packed.clone());
        }
        Ok(packed)
    }

    fn metrics_page(&self, packed: bool) -> prometheus::Result<Response<Full<Bytes>>> {
        let text = if packed {
            self.packed_metrics()?
        } else {
            self.metrics()?
        };
        let mut response = reply(StatusCode::OK, metrics::CONTENT_TYPE, text);
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        if packed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(response)
    }

    /// The answer to one request; `allowed`: it may have what not everybody may.
    pub(super) fn answer<B: Body>(
        &self,
        request: &Request<B>,
        allowed: bool,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/" | "/metrics" | "/healthz" | "/readyz" | "/status") {
            return text(StatusCode::NOT_FOUND, "not found; see /\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // Whether it lives says nothing that a stranger must not know, and who asks for that may have no token.
        if !allowed && matches!(path, "/metrics" | "/status") {
            let mut response = text(StatusCode::UNAUTHORIZED, "only with a token\n");
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            return response;
        }
        let snapshot = self.agent.latest();
        match path {
            "/metrics" => match self.metrics_page(takes_gzip(request.headers())) {
                Ok(metrics) => metrics,
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/healthz" => said(life::alive(&snapshot).map(|()| "alive".to_owned())),
            "/readyz" => said(life::ready(&snapshot)),
            "/status" => match serde_json::to_vec_pretty(&ShortStatus::new(&snapshot)) {
                Ok(mut json) => {
                    json.push(b'\n');
                    reply(StatusCode::OK, "application/json", json)
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => reply(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        }
    }
}

const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><title>ctpressure</title></head><body>
<h1>ctpressure</h1>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/status\">/status</a>: whether all is well; the rest is for who asks on the node, by `ctpressure status`</li>
<li><a href=\"/readyz\">/readyz</a>: attached and sampling, or waiting for conntrack to be loaded</li>
<li><a href=\"/healthz\">/healthz</a>: alive</li>
</ul>
</body></html>
";

/// Fast: a level that packs a tenth better takes three times as long.
fn gzip(text: &[u8]) -> io::Result<Bytes> {
    let mut packed = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    packed.write_all(text)?;
    packed.finish().map(Bytes::from)
}

/// Whether who asks takes an answer in gzip: it is named, or anything is taken, and not with a weight of 0 (RFC 9110, 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut any = false;
    for coding in codings {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let taken = weight.trim().parse().unwrap_or(0.0) > 0.0;
        match name.trim() {
            "*" => any = taken,
            name if name.eq_ignore_ascii_case("gzip") => return taken,
            _ => {}
        }
    }
    any
}

/// A word if all is well, else the reason.
fn said(state: Result<String, String>) -> Response<Full<Bytes>> {
    match state {
        Ok(word) => text(StatusCode::OK, format!("{word}\n")),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_takes_it() {
        let taken = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            takes_gzip(&headers)
        };
        for values in [
            &["gzip"][..],
            &["deflate, GZIP;q=0.5"],
            &["br", "gzip"],
            &["*"],
            &["*;q=0, gzip"],
        ] {
            assert!(taken(values), "{values:?}");
        }
        for values in [
            &[][..],
            &["identity"],
            &["gzip;q=0"],
            &["gzip; q=0.000, *"],
            &["*;q=0"],
            &["gzipped"],
            &["gzip;q=x"],
        ] {
            assert!(!taken(values), "{values:?}");
        }
    }
}
