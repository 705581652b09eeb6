//! A request to an identity server, built before its endpoint is known.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Uri};
use hyper::body::Bytes;
use zeroize::Zeroizing;

use super::form::urlencoded;

/// A request without its URL. No `Debug`: it holds secrets.
pub struct Outgoing {
    pub content_type: &'static str,
    pub authorization: Option<HeaderValue>,
    pub body: Zeroizing<Vec<u8>>,
}

impl Outgoing {
    pub fn form(fields: &[(&str, &str)], authorization: Option<HeaderValue>) -> Self {
        let mut form = urlencoded(fields);
        Self {
            content_type: "application/x-www-form-urlencoded",
            authorization,
            body: Zeroizing::new(std::mem::take(&mut *form).into_bytes()),
        }
    }

    pub fn json(json: Vec<u8>, authorization: HeaderValue) -> Self {
        Self {
            content_type: "application/json",
            authorization: Some(authorization),
            body: Zeroizing::new(json),
        }
    }

    /// A POST to `url`; the request's URI is the path only.
    pub fn to(mut self, url: &Uri) -> Option<Request<Bytes>> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path)
            .header(CONTENT_TYPE, self.content_type)
            .header("accept", "application/json")
            .body(Bytes::from(std::mem::take(&mut *self.body)))
            .ok()?;
        if let Some(authorization) = self.authorization.take() {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        Some(request)
    }
}
