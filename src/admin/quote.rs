//! `bursar quote`: the server asks the site, because it has the guard, the connections and the limits in force.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use super::limits::{put, response};
use super::{Admin, AdminError, Door, Known, read_up_to};
use crate::listen::quote::{self, Ask};
use crate::payment::quote::Quote;
use bursar_config::diagnose::nearest;
use bursar_home::Home;

pub(super) const PATH: &str = "/quote";
/// A request with a body, which may be as long as one that is paid for.
const CAP: usize = 2 << 20;

pub(super) async fn answer(admin: &Arc<Admin>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = read_up_to::<Ask>(request, CAP).await;
    response(match asked {
        Ok(asked) => match of_an_agent(admin, &asked.agent) {
            Ok(()) => quote::answer(&admin.proxy, asked).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    })
}

/// A name that nobody has is a typo, and its verdict would say nothing.
fn of_an_agent(admin: &Admin, name: &str) -> Result<(), String> {
    let (limits, _) = admin.rules.current();
    let known = Known::of(&admin.home, None).agents;
    let mut names: Vec<&str> = known.iter().map(String::as_str).chain(limits.agents()).collect();
    names.sort_unstable();
    if names.contains(&name) {
        return Ok(());
    }
    Err(match nearest(name, names) {
        Some(meant) => format!("there is no agent {name}; did you mean {meant}?"),
        None => format!("there is no agent {name}; `bursar agents list` lists them"),
    })
}

/// Asks the running server.
pub(crate) async fn quote(home: &Home, asked: &Ask) -> Result<Quote, AdminError> {
    put(&Door::of(home), PATH, asked).await
}
