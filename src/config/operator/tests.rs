use std::time::Duration;

use std::path::Path;

use super::*;
use bursar_config::examples;
use bursar_core::money::MicroUsd;

const EXAMPLE: &str = include_str!("../../../bursar.example.toml");

fn config(text: &str) -> Config {
    Config::parse("bursar.toml", text, Path::new("/d")).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn rejects(text: &str, what: &str) {
    let error = Config::parse("bursar.toml", text, Path::new("/d")).unwrap_err();
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn the_example_is_a_good_file_with_its_switches_off_and_on() {
    config(EXAMPLE);
    config(&examples::switched_on(EXAMPLE));
}

#[test]
fn the_example_shows_every_key() {
    let text = examples::switched_on(EXAMPLE);
    let error = Config::parse("bursar.toml", &examples::probed(&text), Path::new("/d")).unwrap_err();
    examples::check_that_keys_are_shown(&text, &error, str::to_owned);
}

#[test]
fn no_file_means_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(dir.path()).unwrap();
    assert_eq!(config.proxy.listen.to_string(), "127.0.0.1:8402");
    assert_eq!(config.proxy.tls, None);
    assert!(!config.proxy.via);
    assert_eq!(config.proxy.agent_payments, AgentPayments::Refuse);
    assert!(config.upstream.extra_ca.is_empty() && config.upstream.allow_private.is_empty());
    assert!(config.upstream.allow_http_payments.is_empty() && !config.upstream.system_roots);
    assert_eq!(config.wallet, None);
    assert!(config.networks.is_empty());
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.log.unsigned_max, Duration::from_secs(600));
}

/// The values that the example sets are the defaults, so that nobody is misled.
#[test]
fn the_example_writes_the_default_timeouts_and_capacity() {
    let example = config(EXAMPLE);
    assert_eq!(example.timeouts, Timeouts::default());
    assert_eq!(example.log, Log::default());
    assert_eq!(example.capacity, Capacity::default());
    assert_eq!(example.proxy.listen, Proxy::default().listen);
}

#[test]
fn what_is_written_is_what_is_read() {
    let config = config(
        r#"
[proxy]
listen = "[::]:0"
tls_cert = "cert.pem"
tls_key = "/k/key.pem"
via = true
agent_payments = "pass"
[upstream]
extra_ca = ["a.pem", "/b.pem"]
system_roots = true
allow_private = ["127.0.0.1/32", "::1", "10.0.0.0/8"]
allow_http_payments = ["127.0.0.1", "Shop.Example"]
[wallet.evm]
key = "env:KEY"
[networks."eip155:84532"]
rpc = ["http://127.0.0.1:8545"]
[networks."eip155:8453"]
[log]
unsigned_max_s = 60
[timeouts]
drain_s = 5
[capacity]
requests_per_agent = 7
upload_memory_mib = 8
"#,
    );
    let tls = config.proxy.tls.unwrap();
    assert_eq!((tls.cert, tls.key), ("/d/cert.pem".into(), "/k/key.pem".into()));
    assert!(config.proxy.via);
    assert_eq!(config.proxy.agent_payments, AgentPayments::Pass);
    assert_eq!(config.upstream.extra_ca, [PathBuf::from("/d/a.pem"), "/b.pem".into()]);
    let private: Vec<String> = config.upstream.allow_private.iter().map(IpNet::to_string).collect();
    assert_eq!(private, ["127.0.0.1/32", "::1/128", "10.0.0.0/8"]);
    let http: Vec<&str> = config.upstream.allow_http_payments.iter().map(Host::as_str).collect();
    assert_eq!(http, ["127.0.0.1", "shop.example"]);
    assert_eq!(config.wallet, Some(WalletKey::Hex(SecretSource::Env("KEY".into()))));
    assert_eq!(config.networks[&Network::Eip155(8453)], []);
    assert_eq!(
        config.networks[&Network::Eip155(84_532)][0].uri(),
        "http://127.0.0.1:8545/"
    );
    assert_eq!(config.log.unsigned_max, Duration::from_secs(60));
    assert_eq!(config.timeouts.drain, Duration::from_secs(5));
    assert_eq!(config.timeouts.idle, Duration::from_secs(600));
    let expected = Capacity {
        requests_per_agent: 7,
        upload_memory: 8 << 20,
        ..Capacity::default()
    };
    assert_eq!(config.capacity, expected);
    rejects("[capacity]\nlookups_per_agent = 65", "from 1 to 64");
    rejects("[capacity]\ntunnels_per_agent = 65", "connections_per_agent");
}

#[test]
fn a_corporate_proxy_has_its_password_elsewhere() {
    let config = config(
        "[upstream]\nproxy = \"socks5h://proxy.example:1080\"\nproxy_user = \"me\"\nproxy_password = \"file:pw\"\n\
         no_proxy = [\".corp.example\", \"10.0.0.0/8\"]",
    );
    assert_eq!(config.secrets().collect::<Vec<_>>(), [&SecretSource::File("pw".into())]);
    let proxy = config.upstream.proxy.unwrap();
    assert_eq!(
        proxy.address,
        bursar_net::corporate::ProxyAddress::parse("socks5h://proxy.example:1080").unwrap()
    );
    assert_eq!(proxy.login.unwrap().user, "me");
    for (host, spared) in [("a.corp.example", true), ("10.1.1.1", true), ("proxy.example", false)] {
        assert_eq!(proxy.no_proxy.covers(&Host::parse(host).unwrap()), spared, "{host}");
    }
    rejects(
        "[upstream]\nproxy = \"http://me:secret@proxy.example:3128\"",
        "a user name or password",
    );
    rejects("[upstream]\nproxy = \"http://proxy.example\"", "has no port");
    rejects("[upstream]\nproxy = \"proxy.example:3128\"", "has no scheme");
    rejects("[upstream]\nno_proxy = [\"a.example\"]", "there is no upstream.proxy");
    let proxy = "[upstream]\nproxy = \"http://proxy.example:3128\"\n";
    rejects(&format!("{proxy}proxy_user = \"me\""), "proxy_user is set alone");
    rejects(
        &format!("{proxy}proxy_user = \"me\"\nproxy_password = \"hunter2\""),
        "where the secret is kept",
    );
    rejects(
        &format!("{proxy}no_proxy = [\"http://a.example\"]"),
        "neither a host name nor a range",
    );
}

#[test]
fn hosts_that_are_not_intercepted_are_read_as_in_limits() {
    let reads = |text: &str, host: &str| config(text).intercept.reads(&Host::parse(host).unwrap());
    assert!(config("").intercept.is_everything() && reads("", "a.example"));
    let never = "[intercept]\nnever = [\"*.bank.example\", \"Pinned.example\", \"192.0.2.1\"]\n";
    for (host, read) in [
        ("a.b.bank.example", false),
        ("bank.example", true),
        ("pinned.example", false),
        ("a.pinned.example", true),
        ("192.0.2.1", false),
        ("::ffff:192.0.2.1", false),
        ("192.0.2.2", true),
    ] {
        assert_eq!(reads(never, host), read, "{host}");
    }
    let both = "[intercept]\nonly = [\"*.example\"]\nnever = \"bank.example\"\n";
    for (host, read) in [("a.example", true), ("bank.example", false), ("a.test", false)] {
        assert_eq!(reads(both, host), read, "{host}");
    }
    let wide = "[[upstream.site]]\nhost = \"*.corp.example\"\npassthrough = true\n\
                [[upstream.site]]\nhost = \"pay.corp.example\"\nca = \"a.pem\"\n";
    rejects(wide, "its section is never used");
    let section = "[[upstream.site]]\nhost = \"old.example\"\npassthrough = true\n";
    assert!(!reads(section, "old.example") && reads(section, "new.example"));
    assert!(reads(&section.replace("true", "false\nca = \"a.pem\""), "old.example"));
    assert_eq!(
        config(both).intercept.to_string(),
        "all except *.example, and of these bank.example"
    );
    for (text, what) in [
        ("[intercept]\nnever = [\"https://a.example\"]", "without scheme"),
        ("[intercept]\nonly = [\"*\"]", "whole first label"),
        ("[intercept]\nexclude = []", "The key is `never`"),
        (
            "[upstream]\nallow_http_payments = [\"a.example\"]\n[intercept]\nnever = [\"a.example\"]",
            "is not intercepted, so it is never paid",
        ),
        (
            "[upstream]\nallow_http_payments = [\"a.example\"]\n[intercept]\nonly = [\"b.example\"]",
            "is not intercepted, so it is never paid",
        ),
    ] {
        rejects(text, what);
    }
}

#[test]
fn a_section_for_a_site_says_one_thing() {
    let text = "[[upstream.site]]\nhost = \"*.partner.example\"\nca = \"ca.pem\"\nclient_cert = \"/c.pem\"\n\
                client_key = \"file:c.key\"\n[[upstream.site]]\nhost = \"old.example\"\npassthrough = true\n";
    let read = config(text);
    let [partner, old] = &read.upstream.sites[..] else {
        panic!("{:?}", read.upstream.sites);
    };
    assert_eq!(partner.hosts.to_string(), "*.partner.example");
    let SiteTls::Intercepted { ca, client } = &partner.tls else {
        panic!("{partner:?}");
    };
    assert_eq!(ca.as_deref(), Some(Path::new("/d/ca.pem")));
    assert_eq!(client.as_ref().unwrap().cert, Path::new("/c.pem"));
    assert_eq!(old.tls, SiteTls::Passthrough);
    // Agents do not get the key, and others may not have written the files.
    let secrets: Vec<String> = read.secrets().map(ToString::to_string).collect();
    assert_eq!(secrets, ["file:c.key"]);
    let files: Vec<_> = read.certificates().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["/d/ca.pem", "/c.pem"]);

    let site = |lines: &str| format!("[[upstream.site]]\nhost = \"a.example\"\n{lines}\n");
    for (text, what) in [
        (site(""), "changes nothing"),
        (
            site("client_cert = \"c.pem\""),
            "client_cert is set, but client_key is not",
        ),
        (
            site("client_key = \"env:K\""),
            "client_key is set, but client_cert is not",
        ),
        (site("passthrough = true\nca = \"a.pem\""), "no use with passthrough"),
        (site("passthrough = true").repeat(2), "two sections for \"a.example\""),
        (site("cert = \"c.pem\""), "The key is `client_cert`"),
        ("[[upstream.site]]\npassthrough = true".to_owned(), "has no `host`"),
        ("[upstream]\nsite = \"a.example\"".to_owned(), "must be a list"),
        ("[upstream.site]\nhost = \"a.example\"".to_owned(), "must be a list"),
    ] {
        rejects(&text, what);
    }
    let text = site("client_cert = \"c.pem\"\nclient_key = \"hunter2\"");
    let error = Config::parse("bursar.toml", &text, Path::new("/d"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("does not say where the secret is kept") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn a_keystore_needs_its_password_and_nothing_else_does() {
    let keystore = config("[wallet.evm]\nkey = \"keystore:w.json\"\npassword = \"file:pw\"");
    assert_eq!(
        keystore.wallet,
        Some(WalletKey::Keystore {
            path: "/d/w.json".into(),
            password: SecretSource::File("pw".into()),
        })
    );
    rejects(
        "[wallet.evm]\nkey = \"keystore:w.json\"",
        "has a keystore, but no `password`",
    );
    rejects(
        "[wallet.evm]\nkey = \"env:K\"\npassword = \"env:P\"",
        "its `key` is not a keystore",
    );
    rejects("[wallet.evm]\npassword = \"env:P\"", "[wallet.evm] has no `key`");
    rejects(
        "[wallet.evm]\nkey = \"keystore:\"\npassword = \"env:P\"",
        "its `key` is not a keystore",
    );
}

#[test]
fn plain_listeners_beyond_loopback_must_be_wanted() {
    for listen in ["0.0.0.0:8402", "[::]:8402", "192.168.1.2:0"] {
        let text = format!("[proxy]\nlisten = \"{listen}\"\n");
        rejects(&text, "can be reached from other machines without TLS");
        config(&format!("{text}allow_plain = true\n"));
        config(&format!("{text}tls_cert = \"c\"\ntls_key = \"k\"\n"));
    }
    config("[proxy]\nlisten = \"127.0.0.2:1\"");
    config("[proxy]\nlisten = \"[::1]:1\"");
    rejects(
        "[proxy]\ntls_cert = \"c\"",
        "proxy.tls_cert is set, but proxy.tls_key is not",
    );
}

#[test]
fn an_rpc_url_shows_its_host_only() {
    let config = config("[networks.\"eip155:8453\"]\nrpc = \"https://u:hunter2@rpc.example/v2/hunter2\"");
    let shown = format!("{config:?}");
    assert!(
        shown.contains("RpcUrl(rpc.example)") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn secrets_of_approval_backends_are_known_whichever_is_chosen() {
    let named = |text: &str| -> Vec<String> { config(text).secrets().map(ToString::to_string).collect() };
    let written = "[approval.ciba]\nclient_id = \"bursar\"\nclient_secret = \"env:A\"\n[approval.keyra]\n\
                   base_url = \"https://keyra.example.com\"\napi_key = \"file:b\"\nwebhook_secret = \"env:C\"\n";
    assert_eq!(named(written), ["env:A", "file:b", "env:C"]);
    // Then BKey's own tools define the client.
    let of_bkey = ["env:BKEY_CLIENT_ID", "env:BKEY_CLIENT_SECRET", "env:BKEY_ACCESS_TOKEN"];
    assert_eq!(named("[approval]\nbackend = \"ciba\"\n"), of_bkey);
    assert_eq!(named("[approval.ciba]\nprofile = \"main\"\n"), of_bkey);
    assert!(named("[approval]\nbackend = \"operator\"\n").is_empty());
}

#[test]
fn what_is_written_of_an_identity_server_is_what_is_read() {
    use crate::config::approval::Backend;
    use bursar_approvals::ciba::settings::{AuthMethod, Delivery, Style};
    let text = "[approval]\nbackend = \"ciba\"\ncallbacks = \"127.0.0.1:0\"\n[approval.ciba]\nstyle = \"standard\"\n\
                issuer = \"https://login.example.com/\"\nclient_id = \"bursar\"\nclient_secret = \"env:A\"\n\
                delivery = \"ping\"\nhosts = \"Keys.example.com\"\nalgs = [\"Ed25519\"]\n";
    let Backend::Ciba(ciba) = config(text).approval.backend else {
        panic!("another backend");
    };
    assert_eq!(ciba.issuer.unwrap().as_str(), "https://login.example.com");
    assert_eq!(
        (ciba.options.style, ciba.options.delivery),
        (Style::Standard, Delivery::Ping)
    );
    // The default of OpenID Connect; BKey uses the other method.
    assert_eq!(ciba.client_auth, AuthMethod::Basic);
    assert_eq!(ciba.options.hosts, ["keys.example.com"]);
    rejects(
        &text.replace("style = \"standard\"", "style = \"bkey\""),
        "BKey supports only",
    );
    rejects(&text.replace("callbacks", "hold_s = 1\n#"), "nothing listens for calls");
    rejects(&format!("{text}require_bound_details = true\n"), "no details are sent");
    rejects(
        &format!("{text}scope = \"approve:payment openid\"\n"),
        "not a valid scope",
    );
    rejects(
        &format!("{text}approver = \"two people\"\n"),
        "is not a valid name for a person",
    );
    rejects(
        &format!("{text}client_auth = \"private_key_jwt\"\n"),
        "no `client_id` and `client_key`",
    );
    rejects(
        &text.replace("client_secret = \"env:A\"", "client_key = \"file:k\""),
        "client_key needs client_auth",
    );
    let keyed = text.replace(
        "client_secret = \"env:A\"",
        "client_auth = \"private_key_jwt\"\nclient_key = \"file:client.pem\"\nclient_key_id = \"k1\"",
    );
    let Backend::Ciba(ciba) = config(&keyed).approval.backend else {
        panic!("another backend");
    };
    assert_eq!(ciba.client_auth, AuthMethod::PrivateKeyJwt);
    // Agents get neither secret.
    assert_eq!(config(&keyed).approval.secrets.len(), 1);
    let both = format!("{keyed}client_secret = \"env:A\"\n");
    assert_eq!(config(&both).approval.secrets.len(), 2);
    rejects(&keyed.replace("client_key = ", "#"), "no `client_id` and `client_key`");
    rejects(
        &keyed.replace("file:client.pem", "hunter2"),
        "does not say where the secret is kept",
    );
    rejects(
        &keyed.replace("style = \"standard\"", "style = \"bkey\""),
        "BKey takes a client secret",
    );
}

proptest::proptest! {
    /// A secret written instead of its source is never repeated in a message, whatever surrounds it.
    #[test]
    fn no_message_holds_the_value_of_a_wallet_key(
        before in "[a-z =\\[\\]{}\n#]{0,12}",
        form in proptest::sample::select(vec![
            "key = \"S\"", "key = 'S'", "key = S", "key = \"S", "key = [\"S\"]", "key = { a = \"S\" }", "kee = \"S\"",
            "key = \"S\" password = 1", "password = \"S\"", "key = \"keystore:S\"\npassword = \"S\"", "key = \"\"\"\nS\"\"\"",
        ]),
        after in "[a-z =\\[\\]{}\n#]{0,12}",
    ) {
        let secret = "4c0883a69102937d6231471b5dbb6204";
        let text = format!("[wallet.evm]\n{before}{}{after}", form.replace('S', secret));
        if let Err(error) = Config::parse("bursar.toml", &text, Path::new("/d")) {
            proptest::prop_assert!(!error.to_string().contains(secret), "{text}\n---\n{error}");
        }
    }
}

#[test]
fn alerts_are_sent_by_a_command_and_a_webhook() {
    let alerts = config(
        r#"
[alerts]
command = ["./tell", "ops"]
webhook = "https://alerts.example.com/T0/secret"
webhook_token = "env:TOKEN"
low_wallet = "10.50"
"#,
    )
    .alerts;
    assert_eq!(alerts.command, Some(vec!["./tell".to_owned(), "ops".to_owned()]));
    assert_eq!(alerts.low_wallet, Some(MicroUsd::new(10_500_000)));
    let webhook = alerts.webhook.unwrap();
    assert_eq!(webhook.url, "https://alerts.example.com/T0/secret");
    assert_eq!(webhook.token, Some(SecretSource::Env("TOKEN".into())));
    assert!(!format!("{webhook:?}").contains("secret"));
    for local in [
        "http://localhost:9000/",
        "http://127.0.0.1:9000/",
        "http://[::1]:9000/x",
    ] {
        config(&format!("[alerts]\nwebhook = \"{local}\"\n"));
    }
}

#[test]
fn alerts_that_reach_nobody_or_that_others_could_read_are_mistakes() {
    for (line, what) in [
        (
            "webhook = \"http://alerts.example.com/\"",
            "alerts.webhook: not an https URL",
        ),
        (
            "webhook = \"http://127.0.0.1.example.com/\"",
            "alerts.webhook: not an https URL",
        ),
        ("webhook = \"alerts\"", "alerts.webhook: not an https URL"),
        (
            "webhook_token = \"env:TOKEN\"",
            "alerts.webhook_token is set, but alerts.webhook is not",
        ),
        ("command = []", "alerts.command: the list is empty"),
        ("command = [\"\"]", "alerts.command is not a program with its arguments"),
        ("command = \"tell\"", "alerts.command must be a list"),
        ("low_wallet = 10", "alerts.low_wallet: 10 is a bare number"),
        ("email = \"ops@example.com\"", "[alerts] has no key `email`"),
    ] {
        rejects(&format!("[alerts]\n{line}\n"), what);
    }
    let text = "[alerts]\nwebhook = \"https://a.example.com/\"\nwebhook_token = \"hunter2\"\n";
    let error = Config::parse("bursar.toml", text, Path::new("/d"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("alerts.webhook_token does not say where the secret is kept"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn bkey_pays_where_the_file_says_so() {
    use crate::config::approval::ciba::{Client, ClientId};

    let by_key = config("[wallet.evm]\nkey = \"env:K\"");
    assert_ne!(by_key.wallet, Some(WalletKey::Bkey));
    let signs = config("[wallet]\nevm = \"bkey\"");
    assert_eq!(signs.wallet, Some(WalletKey::Bkey));
    let tools = Client::Bkey { profile: None };
    assert_eq!((signs.bkey_client().client, signs.bkey_client().api_url), (tools, None));
    let issues = config("[stripe]\nkey = \"bkey\"\npayment_method = \"pm_a\"");
    assert_eq!(issues.stripe.as_ref().unwrap().issued_by, TokenIssuer::Bkey);

    let asks = "[approval]\nbackend = \"ciba\"\n[approval.ciba]\nissuer = \"https://id.example\"\nprofile = \"main\"\n";
    let shared = config(&format!("[wallet]\nevm = \"bkey\"\n{asks}")).bkey_client();
    assert_eq!(shared.api_url.unwrap().as_str(), "https://id.example");
    assert_eq!(
        shared.client,
        Client::Bkey {
            profile: Some("main".to_owned())
        }
    );
    // An identity server other than BKey says nothing about the BKey client.
    let other = "[approval]\nbackend = \"ciba\"\n[approval.ciba]\nstyle = \"standard\"\nissuer = \"https://id.example\"\n\
                 client_id = \"a\"\nclient_secret = \"env:S\"\n";
    assert_eq!(
        config(&format!("[wallet]\nevm = \"bkey\"\n{other}"))
            .bkey_client()
            .api_url,
        None
    );

    let own = "[bkey]\napi_url = \"http://127.0.0.1:9/\"\nclient_id = \"c\"\nclient_secret = \"env:S\"\n";
    let own = config(&format!("[wallet]\nevm = \"bkey\"\n{asks}{own}"));
    let secrets: Vec<String> = own.secrets().map(ToString::to_string).collect();
    assert!(secrets.contains(&"env:S".to_owned()), "{secrets:?}");
    let client = own.bkey_client();
    assert_eq!(client.api_url.unwrap().as_str(), "http://127.0.0.1:9");
    assert!(matches!(client.client, Client::Named { id: ClientId::Text(id), .. } if id == "c"));
}
