//! Several servers on one database: together they stay within the limits, whatever happens to one of them or to the
//! database.

use std::time::Instant;

use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::postgres_cluster::{Cluster, Database, cluster};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Setup, eventually, setup};
use crate::support::origin::Origin;
use crate::support::seller::{self, shop};

const TWENTY: &str = "timezone = \"UTC\"\n[agents.research]\ntotal = \"0.20\"\n";

fn on(database: &Database, origin: &Origin) -> Setup {
    setup().trust(&origin.ca_pem).config(&store(&database.url()))
}

fn store(url: &str) -> String {
    format!("[store]\nurl = \"{url}\"\n")
}

/// Each buyer buys something different, once.
async fn buy(servers: &[Bursar], origin: &Origin, buyers: usize) -> Vec<u16> {
    let mut buying = JoinSet::new();
    for buyer in 0..buyers {
        let (agent, address) = (Agent::of(&servers[buyer % servers.len()]), origin.address);
        buying.spawn(async move { agent.get(address, &format!("/{buyer}")).await.status.as_u16() });
    }
    buying.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_servers_sell_no_more_than_the_limit_holds() {
    let (origin, database) = (cent_shop().await, cluster().database().await);
    let servers: Vec<Bursar> = (0..4).map(|_| on(&database, &origin).limits(TWENTY).start()).collect();
    let statuses = buy(&servers, &origin, 72).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 20);
    assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 52);
    assert_eq!(origin.payments().len(), 20);
    let own: usize = eventually("every log has its part", || {
        let own: usize = servers.iter().map(|server| settled(server).len()).sum();
        (own == 20).then_some(own)
    })
    .await;
    assert_eq!(own, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_killed_server_left_stays_counted_and_is_taken_over() {
    let (origin, database) = (cent_shop().await, cluster().database().await);
    let mut servers: Vec<Bursar> = (0..4).map(|_| on(&database, &origin).limits(TWENTY).start()).collect();
    let mut killed = servers.pop().unwrap();
    let mut buying = JoinSet::new();
    for buyer in 0..12 {
        let address = origin.address;
        let mut connection = Agent::of(&killed).connect(address, &["http/1.1"]).await;
        let request = Request::get(format!("/killed/{buyer}")).body(Full::default()).unwrap();
        buying.spawn(async move { connection.send(address, request).await.is_ok() });
    }
    let ends = async {
        while origin.payments().len() < 4 {
            tokio::task::yield_now().await;
        }
        killed.kill()
    };
    let (_, home) = tokio::join!(buy(&servers, &origin, 60), ends);
    buying.join_all().await;
    assert!(origin.payments().len() <= 20, "{}", origin.payments().len());

    // The server that started last.
    let mine = database.ask("select max(node_id) from bursar.node").await;
    let open = "select count(*) from bursar.resv where state in (1, 2)";
    let began = Instant::now();
    // A server checks for silent ones every ten seconds; a new one does so at once.
    database
        .run(&format!(
            "update bursar.node set heartbeat = now() - interval '61 seconds' where node_id = {mine}"
        ))
        .await;
    servers.push(on(&database, &origin).limits(TWENTY).start());
    while database.ask(open).await != "0" {
        assert!(began.elapsed().as_secs() < 60);
        tokio::task::yield_now().await;
    }
    // Whatever was sent, or may have been, counts; nothing more can be bought.
    let counted = "select coalesce(sum((settled + open))::text, '0') from bursar.win where win = 'total'";
    // A row names the entry that has what was reserved.
    let from_rows = "select coalesce(sum((convert_from(o.entry, 'UTF8')::json ->> 'usd_micros')::int8)::text, '0') \
                  from bursar.resv r join bursar.outbox o on o.node_id = r.entry_node and o.seq = r.entry_seq \
                  where r.state in (3, 4)";
    assert_eq!(database.ask(counted).await, database.ask(from_rows).await);
    buy(&servers, &origin, 8).await;
    assert_eq!(database.ask(counted).await, "200000");
    assert!(origin.payments().len() <= 20);

    // The killed server comes back, and its log says which payments were taken over.
    let back = home.serve();
    let doubtful: usize = database
        .ask("select count(*) from bursar.resv where state = 4")
        .await
        .parse()
        .unwrap();
    assert_eq!(
        servers
            .iter()
            .chain([&back])
            .map(|server| states(server, "unknown").len())
            .sum::<usize>(),
        doubtful
    );
}

#[tokio::test]
async fn without_the_database_nothing_is_paid_and_free_traffic_goes_on() {
    let origin = Origin::https(|request| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/free", _) => crate::support::origin::answer(200, &[], "free"),
            (_, true) => seller::sold("goods"),
            (_, false) => seller::asks("10000"),
        }
    })
    .await;
    let own = Cluster::start();
    let database = own.database().await;
    let first = on(&database, &origin).start();
    let agent = Agent::of(&first);
    assert_eq!(agent.get(origin.address, "/a").await.status, 200);

    own.down();
    // Another server starts while the database is away.
    let second = on(&database, &origin).start();
    for server in [&first, &second] {
        let agent = Agent::of(server);
        let began = Instant::now();
        let page = agent.get(origin.address, "/b").await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (503, "store-unavailable".to_owned()),
            "{}",
            server.log()
        );
        assert!(began.elapsed().as_secs() < 20);
        assert!(page.header("retry-after").is_some());
        assert_eq!(agent.get(origin.address, "/free").await.status, 200);
    }
    assert!(
        second.log().contains("the ledger's database cannot be used"),
        "{}",
        second.log()
    );
    assert_eq!(origin.payments().len(), 1);

    own.up();
    for (number, server) in [&first, &second].into_iter().enumerate() {
        let (agent, began) = (Agent::of(server), Instant::now());
        while agent.get(origin.address, &format!("/again/{number}")).await.status != 200 {
            assert!(began.elapsed().as_secs() < 60, "{}", server.log());
        }
    }
    assert_eq!(origin.payments().len(), 3);
}

#[tokio::test]
async fn a_server_with_older_limits_pays_nothing_until_it_has_the_new_ones() {
    let (origin, database) = (shop().await, cluster().database().await);
    let old = on(&database, &origin).limits(TWENTY).start();
    assert_eq!(Agent::of(&old).get(origin.address, "/").await.status, 200);
    let newer = TWENTY.replace("0.20", "0.30");
    let new = on(&database, &origin).limits(&newer).start();
    let page = Agent::of(&old).get(origin.address, "/").await;
    assert_eq!(page.problem(), "store-unavailable");
    let detail = page.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("generation 2; this proxy has 1"), "{detail}");
    assert_eq!(Agent::of(&new).get(origin.address, "/").await.status, 200);
    // The new file is there: the next request reads it at once.
    old.home.write_limits(&newer);
    assert_eq!(Agent::of(&old).get(origin.address, "/").await.status, 200);
    assert_eq!(origin.payments().len(), 3);
    let entries = eventually("it is in the log", || {
        Some(old.journal()).filter(|entries| reserved(entries).len() == 2)
    })
    .await;
    assert_eq!(reserved(&entries)[1]["policy_gen"], 2);
}

#[tokio::test]
async fn the_connection_to_the_database_is_encrypted_and_verified() {
    let (origin, database) = (shop().await, cluster().database().await);
    database.run("do $$ begin create role locked login superuser password 'open sesame'; exception when others then null; end $$").await;
    let url = format!(
        "postgres://locked@127.0.0.1:{}/{}?sslmode=verify-full",
        database.port, database.name
    );
    let with = |ca: &str| {
        let home = setup()
            .trust(&origin.ca_pem)
            .config(&format!(
                "{}ca = \"db-ca.pem\"\npassword = \"file:db-password\"\n",
                store(&url)
            ))
            .home();
        std::fs::write(home.path().join("db-ca.pem"), ca).unwrap();
        let password = home.path().join("db-password");
        std::fs::write(&password, "open sesame\n").unwrap();
        std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        home
    };
    let bursar = with(&cluster().ca_pem).serve();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let encrypted = "select bool_and(ssl)::text from pg_stat_ssl join pg_stat_activity using (pid) \
                     where usename = 'locked' and datname = current_database()";
    assert_eq!(database.ask(encrypted).await, "true");

    // Another CA's certificate: the server does not start, rather than pay from a ledger that it cannot trust.
    let refused = with(&origin.ca_pem).run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("[store]") && said.contains("certificate"),
        "{said}"
    );
}

#[tokio::test]
async fn a_directory_of_a_shared_ledger_says_so() {
    let (origin, database) = (shop().await, cluster().database().await);
    let mut bursar = on(&database, &origin).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let id = eventually("it is in the log", || {
        bursar.payments().first().map(|payment| payment["id"].clone())
    })
    .await;
    assert_eq!(bursar.stop(), 0);
    let id = id.as_str().unwrap();
    let entries = bursar.journal();
    assert_eq!(entries.last().unwrap()["ev"], "log.close");

    // Without the url it would start counting from zero.
    let config = std::fs::read_to_string(bursar.path().join("bursar.toml")).unwrap();
    std::fs::write(
        bursar.path().join("bursar.toml"),
        config.replace(&store(&database.url()), ""),
    )
    .unwrap();
    let said = bursar.run(&["serve"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("belongs to a ledger in a database"));
    let shown = bursar.run(&["payments", "show", id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("settled"));
}

fn reserved(entries: &[Value]) -> Vec<&Value> {
    entries.iter().filter(|entry| entry["ev"] == "pay.reserved").collect()
}

fn settled(server: &Bursar) -> Vec<Value> {
    states(server, "settled")
}

/// From the server's own log; payments taken over by another server are in that one's log.
fn states(server: &Bursar, state: &str) -> Vec<Value> {
    let mut payments = server.payments();
    payments.retain(|payment| payment["state"] == state);
    payments
}

/// Sells everything for one cent.
async fn cent_shop() -> Origin {
    Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await
}
