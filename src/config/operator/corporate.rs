//! The upstream proxy of a corporate network: `proxy`, `proxy_user`, `proxy_password` and `no_proxy` under `[upstream]`.

use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use bursar_net::corporate::{AddressError, NoProxy, ProxyAddress};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Corporate {
    pub address: ProxyAddress,
    pub login: Option<CorporateLogin>,
    /// What is reached without it.
    pub no_proxy: NoProxy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CorporateLogin {
    pub user: String,
    pub password: SecretSource,
}

pub(super) fn corporate(section: &mut Section<'_>) -> Option<Corporate> {
    // People put the password into the URL of a proxy.
    let [proxy, user, password] =
        ["proxy", "proxy_user", "proxy_password"].map(|key| section.take(key).map(Entry::holding_secrets));
    let no_proxy = section.take("no_proxy");
    let Some(proxy) = proxy else {
        let alone = [&user, &password, &no_proxy].into_iter().flatten().next();
        return alone.and_then(|entry| {
            entry.reject_key(
                format!("{} is set, but there is no upstream.proxy", entry.path()),
                "Add proxy = \"http://proxy.example.com:3128\", or remove it.".to_owned(),
            )
        });
    };
    let login = match (&user, &password) {
        (Some(user), Some(password)) => Some(CorporateLogin {
            user: user.text()?.to_owned(),
            password: password.secret_source()?,
        }),
        (Some(alone), None) | (None, Some(alone)) => {
            return alone.reject_key(
                format!("{} is set alone", alone.path()),
                "Write both proxy_user and proxy_password, or neither.".to_owned(),
            );
        }
        (None, None) => None,
    };
    Some(Corporate {
        address: address(&proxy)?,
        login,
        no_proxy: no_proxy.as_ref().map(spared).unwrap_or_default(),
    })
}

/// The value is not shown: it may contain a password.
fn address(entry: &Entry<'_>) -> Option<ProxyAddress> {
    let why = match ProxyAddress::parse(entry.text()?) {
        Ok(address) => return Some(address),
        Err(why) => why,
    };
    let way_out = match why {
        AddressError::Login => {
            "Write them as proxy_user = \"NAME\" and proxy_password = \"env:NAME\" or \"file:PATH\". A password that was \
             in this file should be replaced."
        }
        _ => {
            "Write \"http://\", \"https://\" or \"socks5h://\", the host, and the port: \"http://proxy.example.com:3128\"."
        }
    };
    entry.reject(format!("upstream.proxy: {why}"), way_out.to_owned())
}

fn spared(entry: &Entry<'_>) -> NoProxy {
    let mut no_proxy = NoProxy::default();
    for item in entry.items().unwrap_or_default() {
        let Some(text) = item.text() else { continue };
        if let Err(why) = no_proxy.add(text) {
            item.reject::<()>(
                format!("upstream.no_proxy: \"{text}\" is {why}"),
                "Write a name, which includes all names below it, or a range such as \"10.0.0.0/8\".".to_owned(),
            );
        }
    }
    no_proxy
}
