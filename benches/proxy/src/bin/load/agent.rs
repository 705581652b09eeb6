//! The agents: each repeats one thing until the window is over.

use std::rc::Rc;

use bursar_bench_proxy::Fault;
use bursar_bench_proxy::order::{Hosts, Order, Work};
use futures_util::{SinkExt, StreamExt};
use tokio::task::spawn_local;
use tokio_tungstenite::tungstenite::Message;

use crate::http1::Http1;
use crate::http2::Http2;
use crate::laps::Laps;
use crate::tunnel::{Tunnels, Version};

const SMALL: &str = "/small";
/// So many hosts are visited, or tunnels opened, at a time.
const AT_ONCE: usize = 8;
/// Length of a WebSocket message.
const MESSAGE: usize = 64;

/// Starts them, and returns how many must be ready before the window can begin.
pub(crate) fn start(order: &Order, laps: &Rc<Laps>) -> Result<usize, Fault> {
    let version = match order.work {
        Work::Streams { .. } => Version::H2,
        _ => Version::H1,
    };
    let agent = Rc::new(Agent {
        tunnels: Tunnels::new(&order.route, version)?,
        host: order.host.clone(),
        laps: laps.clone(),
    });
    let ready = match order.work.clone() {
        Work::KeepAlive { connections, path } => {
            agent.run(connections, move |agent| keep_alive(agent, path.clone()));
            connections
        }
        Work::Streams { at_once } => {
            agent.run(1, move |agent| streams(agent, at_once));
            at_once
        }
        Work::Tunnels { at_once, hosts } => {
            agent.run(at_once, move |agent| open_and_close(agent, hosts));
            at_once
        }
        Work::Idle { tunnels } => {
            agent.run(AT_ONCE, move |agent| hold(agent, tunnels / AT_ONCE));
            tunnels / AT_ONCE * AT_ONCE
        }
        Work::Visit { hosts } => {
            agent.run(AT_ONCE, move |agent| visit(agent, hosts));
            AT_ONCE
        }
        Work::Events => {
            agent.run(1, events);
            1
        }
        Work::Echo => {
            agent.run(1, echo);
            1
        }
    };
    Ok(ready)
}

struct Agent {
    tunnels: Tunnels,
    host: String,
    laps: Rc<Laps>,
}

impl Agent {
    fn run<F>(self: &Rc<Self>, clients: usize, work: impl Fn(Rc<Self>) -> F)
    where
        F: Future<Output = Result<(), Fault>> + 'static,
    {
        for _ in 0..clients {
            let (work, laps) = (work(self.clone()), self.laps.clone());
            spawn_local(async move {
                if let Err(fault) = work.await {
                    laps.fail(&fault);
                }
            });
        }
    }

    async fn http1(&self, host: &str, path: &str) -> Result<Http1, Fault> {
        let stream = self.tunnels.open(host).await?;
        Ok(Http1::new(stream, &self.tunnels.authority(host), path))
    }
}

async fn keep_alive(agent: Rc<Agent>, path: String) -> Result<(), Fault> {
    let mut http = agent.http1(&agent.host, &path).await?;
    http.exchange().await?;
    agent.laps.is_ready();
    while !agent.laps.is_over() {
        let lap = agent.laps.start();
        let bytes = http.exchange().await?;
        agent.laps.finish(&lap, bytes);
    }
    Ok(())
}

async fn streams(agent: Rc<Agent>, at_once: usize) -> Result<(), Fault> {
    let stream = agent.tunnels.open(&agent.host).await?;
    let http = Http2::new(stream, &agent.tunnels.authority(&agent.host)).await?;
    agent.run(at_once, move |agent| {
        let mut http = http.clone();
        async move {
            http.exchange().await?;
            agent.laps.is_ready();
            while !agent.laps.is_over() {
                let lap = agent.laps.start();
                let bytes = http.exchange().await?;
                agent.laps.finish(&lap, bytes);
            }
            Ok(())
        }
    });
    Ok(())
}

async fn open_and_close(agent: Rc<Agent>, hosts: Hosts) -> Result<(), Fault> {
    // What a known host needs is there before the window, and a new one is new.
    agent.http1(&agent.host, SMALL).await?.exchange().await?;
    agent.laps.is_ready();
    while !agent.laps.is_over() {
        let host = match hosts {
            Hosts::Known => agent.host.clone(),
            Hosts::New => agent.laps.new_host(),
        };
        let lap = agent.laps.start();
        let mut http = agent.http1(&host, SMALL).await?;
        let bytes = http.exchange().await?;
        agent.laps.finish(&lap, bytes);
        http.close().await?;
    }
    Ok(())
}

async fn hold(agent: Rc<Agent>, tunnels: usize) -> Result<(), Fault> {
    let mut held = Vec::with_capacity(tunnels);
    for _ in 0..tunnels {
        let mut http = agent.http1(&agent.host, SMALL).await?;
        http.exchange().await?;
        held.push(http);
        agent.laps.is_ready();
    }
    // Held until the process ends.
    std::future::pending::<()>().await;
    drop(held);
    Ok(())
}

async fn visit(agent: Rc<Agent>, hosts: u32) -> Result<(), Fault> {
    while agent.laps.hosts_left(hosts) {
        let mut http = agent.http1(&agent.laps.new_host(), SMALL).await?;
        http.exchange().await?;
        http.close().await?;
    }
    agent.laps.is_ready();
    Ok(())
}

async fn events(agent: Rc<Agent>) -> Result<(), Fault> {
    let mut http = agent.http1(&agent.host, "/events").await?;
    http.events(|| ()).await?;
    agent.laps.is_ready();
    while !agent.laps.is_over() {
        let lap = agent.laps.start();
        http.events(|| agent.laps.finish(&lap, 0)).await?;
    }
    Ok(())
}

async fn echo(agent: Rc<Agent>) -> Result<(), Fault> {
    let stream = agent.tunnels.open(&agent.host).await?;
    let uri = format!("wss://{}/echo", agent.tunnels.authority(&agent.host));
    let (mut socket, _) = tokio_tungstenite::client_async(uri, stream).await?;
    let message = Message::Binary(vec![b'm'; MESSAGE].into());
    agent.laps.is_ready();
    while !agent.laps.is_over() {
        let lap = agent.laps.start();
        socket.send(message.clone()).await?;
        match socket.next().await.ok_or("the WebSocket was closed")?? {
            echo if echo == message => agent.laps.finish(&lap, MESSAGE as u64),
            other => return Err(format!("not the echo: {other}").into()),
        }
    }
    Ok(())
}
