//! `bursar quote` on the running server: the same guard, the same bounds and the same connections as for an agent's own
//! request (R237).

use std::str::FromStr;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Method, Uri};
use serde::{Deserialize, Serialize};

use super::Proxy;
use crate::answer::{Code, Problem};
use crate::payment::quote::{self, Asked, Quote};
use bursar_core::agent_name::AgentName;
use bursar_core::host::Authority;
use bursar_net::tls::AlpnOffer;
use bursar_net::upstream::{Origin, Scheme};

/// What the command sends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub agent: String,
    pub url: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// `Err`: what was asked makes no sense, and the site was not asked.
pub(crate) async fn answer(proxy: &Proxy, ask: Ask) -> Result<Quote, String> {
    let agent = ask.agent.parse::<AgentName>().map_err(|error| error.to_string())?;
    let uri: Uri = ask
        .url
        .parse()
        .map_err(|error| format!("{:?} is not a URL: {error}; write https://HOST/PATH", ask.url))?;
    let origin = origin(&uri)?;
    let asked = Asked {
        method: method(&ask.method)?,
        target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        headers: headers(&ask.headers)?,
        body: ask.body,
    };
    let quoted = quoted(proxy, &agent, &origin, asked).await;
    Ok(quoted.unwrap_or_else(|problem| Quote::failed(&origin, uri.path(), &problem)))
}

async fn quoted(proxy: &Proxy, agent: &AgentName, origin: &Origin, asked: Asked) -> Result<Quote, Problem> {
    if proxy.is_own(&origin.authority) {
        let detail = format!("{} is this proxy itself. Ask for a site's URL.", origin.authority);
        return Err(Problem::new(Code::Loop, detail));
    }
    if origin.scheme == Scheme::Https && !proxy.intercept.reads(&origin.authority.host) {
        let detail = format!(
            "bursar does not read the traffic with {} (`[intercept]` in bursar.toml), so it pays nothing there.",
            origin.authority.host
        );
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let _share = proxy.room.requests.take(agent, 1).map_err(Problem::full)?;
    let offer = match origin.scheme {
        Scheme::Http => AlpnOffer::Nothing,
        Scheme::Https => AlpnOffer::Http1,
    };
    let opened = proxy.upstreams.lane(agent.clone(), origin.clone(), offer).await;
    let (lane, _) = opened.map_err(|error| Problem::unreachable(&error))?;
    quote::run(&proxy.context, agent, &Arc::new(lane), asked).await
}

fn origin(uri: &Uri) -> Result<Origin, String> {
    let (scheme, port) = match uri.scheme_str() {
        Some("https") => (Scheme::Https, 443),
        Some("http") => (Scheme::Http, 80),
        _ => return Err(format!("{uri} is not an http or https URL; write https://HOST/PATH")),
    };
    let authority = uri.authority().ok_or_else(|| format!("{uri} names no host"))?;
    let authority = Authority::parse_or_default(authority.as_str(), port);
    let authority = authority.map_err(|error| format!("the host in {uri} cannot be used: {error}"))?;
    Ok(Origin { scheme, authority })
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_str(&text.to_ascii_uppercase()).ok();
    let method = method.filter(|method| *method != Method::CONNECT);
    method.ok_or_else(|| format!("{text:?} is not a method of requests to a site; write GET or POST"))
}

fn headers(asked: &[(String, String)]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let field = |(name, value): &(String, String)| {
        let name = HeaderName::from_str(name).map_err(|_| format!("{name:?} is not the name of a header field"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of {name} has control characters"))?;
        Ok((name, value))
    };
    asked.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_must_be_a_sites_url() {
        let of = |url: &str| origin(&url.parse().unwrap()).map(|origin| origin.authority.to_string());
        assert_eq!(of("https://api.example.com/a?b"), Ok("api.example.com:443".to_owned()));
        assert_eq!(of("http://127.0.0.1:81/"), Ok("127.0.0.1:81".to_owned()));
        for url in [
            "/a",
            "ftp://example.com/",
            "https://user@example.com/",
            "example.com:443",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        for word in ["connect", "GE T", ""] {
            assert!(method(word).is_err(), "{word}");
        }
        assert_eq!(method("post"), Ok(Method::POST));
        assert!(headers(&[("a b".to_owned(), String::new())]).is_err());
        assert!(headers(&[("a".to_owned(), "x\r\ny: z".to_owned())]).is_err());
    }
}
