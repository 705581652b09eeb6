//! An order: a request for an article, and the URL that was requested.

use bytes::Bytes;
use http::header;
use http::request::Parts;

use super::catalog::Article;

/// One request for an article.
pub(crate) struct Order<'a> {
    pub article: &'static Article,
    pub head: &'a Parts,
    /// The requested URL, with the host as the client wrote it.
    pub url: String,
    pub body: Bytes,
}

/// The requested URL. Its host is the one that the client used, since a payer compares it with its request.
pub(crate) fn requested_url(head: &Parts) -> String {
    let host = head
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| head.headers.get(header::HOST)?.to_str().ok())
        .unwrap_or("localhost");
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    format!("https://{host}{target}")
}
