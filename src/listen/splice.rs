//! A tunnel whose TLS is not opened (`[intercept]` in bursar.toml): the agent's bytes go to the site and the site's to the
//! agent, from the hello on. Nothing in it can be read, so nothing in it can be paid (R100).
//!
//! The agent has logged in, the site's addresses are checked like all others, and the name in the hello must be that of the
//! CONNECT. There is no HTTP in which a refusal could be explained, so it is a TLS alert, and the log says why.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Proxy;
use super::logins::Login;
use bursar_core::agent_name::AgentName;
use bursar_core::host::{Authority, Host};
use bursar_net::dial::DialError;
use bursar_net::idle::Rewind;
use bursar_net::reset::{Reset, Telling};
use bursar_net::shares::Full;
use bursar_net::splice::{self, Alert, Hello};
use bursar_net::upstream::UpstreamError;

pub(super) async fn run<S>(
    proxy: Arc<Proxy>,
    login: Login,
    authority: Authority,
    admitted: Result<(), Full>,
    mut stream: S,
    reset: Reset,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let agent = &login.agent;
    let hello = tokio::select! {
        hello = timeout(proxy.timeouts.hello, splice::hello(&mut stream)) => hello,
        () = proxy.context.stop.cancelled() => return,
    };
    let Hello { name, bytes } = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return tracing::debug!(%agent, %authority, %error, "no TLS hello in the tunnel"),
        Err(_) => return tracing::debug!(%agent, %authority, "the TLS hello took too long"),
    };
    let refused = match (&name, admitted) {
        (_, Err(full)) => Some((Alert::AccessDenied, full.to_string())),
        // Old clients, and all that connect to an address, send none.
        (None, Ok(())) => None,
        (Some(name), Ok(())) => match Host::parse(name) {
            Ok(name) if name == authority.host => None,
            Ok(name) => Some((Alert::UnrecognizedName, format!("its TLS hello is for {name}"))),
            Err(error) => Some((
                Alert::UnrecognizedName,
                format!("its TLS hello is for no host: {error}"),
            )),
        },
    };
    if let Some((alert, why)) = refused {
        return refuse(agent, &authority, alert, &why, &mut stream).await;
    }
    let mut stream = Rewind::new(bytes, stream);
    let site = tokio::select! {
        site = proxy.upstreams.socket(agent, &authority) => site,
        // Nothing is looked up or dialled for an agent that has left.
        _ = stream.hung_up() => return,
    };
    let site = match site {
        Ok(site) => site,
        Err(error) if is_ours(&error) => {
            return refuse(agent, &authority, Alert::AccessDenied, &error.to_string(), &mut stream).await;
        }
        // The agent sees what it would see without us: a connection that fails.
        Err(error) => return tracing::debug!(%agent, %authority, %error, "site not reached"),
    };
    tracing::debug!(%agent, %authority, "TLS passes through unread");
    let stopped = async {
        proxy.context.stop.cancelled().await;
        tokio::time::sleep(proxy.timeouts.drain).await;
    };
    let (stream, site) = (Telling::new(stream, site.reset()), Telling::new(site, reset));
    tokio::select! {
        joined = splice::join(stream, site, proxy.timeouts.idle) => match joined {
            Ok(passed) => tracing::debug!(
                %agent, %authority, to_site = passed.to_site, to_agent = passed.to_agent, "tunnel ended"
            ),
            Err(error) => tracing::debug!(%agent, %authority, %error, "tunnel ended"),
        },
        () = stopped => {}
    }
}

/// Whether the proxy does not let the agent go there, as against a site that cannot be reached.
fn is_ours(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Dial(DialError::Guard { .. } | DialError::Loop { .. } | DialError::Full(_) | DialError::Host(_))
    )
}

async fn refuse<S>(agent: &AgentName, authority: &Authority, alert: Alert, why: &str, stream: &mut S)
where
    S: AsyncWrite + Unpin,
{
    tracing::info!(%agent, %authority, why, "refused a tunnel that is not intercepted, with a TLS alert");
    if let Err(error) = splice::refuse(stream, alert).await {
        tracing::debug!(%agent, %authority, %error, "the agent did not wait for the alert");
    }
}
