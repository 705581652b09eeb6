//! `bursar init`: creates a data directory, and never touches a file that exists.

use clap::Args;
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::environment::sh_word;
use super::output::say;
use super::{Exit, Failure};
use bursar_core::clock;
use bursar_home::{self as home, Home, Readers};
use bursar_ledger::format;
use bursar_net::tls::authority::Authority;
use bursar_rails::pay::Wallet;
use bursar_sandbox::{Identity, IdentityError, stripe};

#[derive(Args)]
pub(super) struct Init {
    /// Also create a new EVM wallet key and configure it in bursar.toml
    #[arg(long)]
    wallet: bool,
    /// Set it up to buy from `bursar sandbox`, so that it pays without real money: a wallet, trust, network and a first budget
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = SANDBOX_URL)]
    sandbox: Option<String>,
}

/// Where `bursar sandbox` sells unless told otherwise.
const SANDBOX_URL: &str = "https://localhost:8443";

/// What was created.
pub(super) struct Made {
    pub wallet: Option<alloy_primitives::Address>,
}

impl Init {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        if let Some(url) = &self.sandbox {
            make_for_sandbox(home, url)?;
            return for_sandbox(home, url);
        }
        let made = make(home, self.wallet)?;
        let dir = home.root().display();
        say!("Created the data directory {dir}.")?;
        if let Some(address) = made.wallet {
            say!()?;
            say!("Wallet {address}")?;
            say!(
                "  The key is in {dir}/wallet.key. Back it up: anyone who has it controls the funds, and without it \
                 they are lost."
            )?;
            say!("  Fund it with USDC on a network that you list under [networks] in bursar.toml.")?;
        }
        say!()?;
        let word = sh_word(&home.root().display().to_string());
        let missing = match made.wallet {
            Some(_) => "list the chains to pay on under [networks]",
            None => "set the key under [wallet.evm] and the chains to pay on under [networks]",
        };
        say!("Next steps:")?;
        say!("  edit {dir}/bursar.toml: {missing}; until then nothing can be paid")?;
        say!("  edit {dir}/limits.toml: set what each agent may spend; until then no agent may spend anything")?;
        say!("  bursar agents add research --dir {word}     # prints the agent's token; it is shown only once")?;
        say!("  bursar serve --dir {word}")?;
        say!("  bursar run --dir {word} --agent research -- curl https://example.com/")?;
        Ok(Exit::Done)
    }
}

/// What to do with a directory that pays at the sandbox.
fn for_sandbox(home: &Home, url: &str) -> Result<Exit, Failure> {
    let (dir, word) = (home.root().display(), sh_word(&home.root().display().to_string()));
    say!("Created the data directory {dir}, set up to buy from the sandbox at {url}.")?;
    say!("Its money is not real: sandbox USDC and a sandbox Stripe. Agent research may spend 5.00 USD a day there.")?;
    say!()?;
    say!("Next steps, the first and third in terminals of their own or in the background:")?;
    say!("  bursar sandbox --dir {word}")?;
    say!("  bursar agents add research --dir {word}")?;
    say!("  bursar serve --dir {word}")?;
    say!("  bursar run --dir {word} --agent research -- curl -i {url}/v2/quote")?;
    say!("  bursar payments list --dir {word}")?;
    Ok(Exit::Done)
}

/// A directory whose files already say how to buy from `bursar sandbox --dir` at `url`.
fn make_for_sandbox(home: &Home, url: &str) -> Result<(), Failure> {
    let uri: http::Uri = url
        .parse()
        .map_err(|_| Failure::usage(format!("--sandbox {url}: this is not a URL such as {SANDBOX_URL}")))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() || !matches!(uri.path(), "" | "/") {
        return Err(Failure::usage(format!(
            "--sandbox {url}: write scheme and host only, such as {SANDBOX_URL}"
        )));
    }
    let url = url.trim_end_matches('/');
    let failed = |error: IdentityError| Failure::negative(error.to_string());
    let identity = Identity::generate(&[uri.host().unwrap_or_default().to_owned()]).map_err(failed)?;
    create(home, true, &limits_for_sandbox(), &config_for_sandbox(url))?;
    home::write_new(&home.sandbox_identity(), identity.pem().as_bytes(), Readers::Owner)?;
    home::write_new(&home.sandbox_ca(), identity.ca_pem().as_bytes(), Readers::Everyone)?;
    home::write_new(&home.sandbox_stripe_key(), stripe::AGENT_KEY.as_bytes(), Readers::Owner)?;
    Ok(())
}

/// Creates the directory's files. The demo uses it too.
pub(super) fn make(home: &Home, with_wallet: bool) -> Result<Made, Failure> {
    create(home, with_wallet, limits_template(), &config_template(with_wallet))
}

fn create(home: &Home, with_wallet: bool, limits: &str, config: &str) -> Result<Made, Failure> {
    refuse_to_overwrite(home)?;
    home.create()?;
    let now = Timestamp::now();
    Authority::create(home, now).map_err(|error| Failure::negative(error.to_string()))?;
    home::write_new(
        &home.root().join("format"),
        format::current().as_bytes(),
        Readers::Owner,
    )?;
    home::write_new(&home.log_key(), log_key()?.as_bytes(), Readers::Owner)?;
    home::write_new(
        &home.agents(),
        b"# Written by `bursar agents`; tokens are stored as hashes.\n",
        Readers::Owner,
    )?;
    home::write_new(&home.limits(), limits.as_bytes(), Readers::Owner)?;
    let wallet = if with_wallet { Some(make_wallet(home)?) } else { None };
    // Last: the directory counts as initialised once this file exists.
    home::write_new(&home.config(), config.as_bytes(), Readers::Owner)?;
    Ok(Made { wallet })
}

fn refuse_to_overwrite(home: &Home) -> Result<(), Failure> {
    let files = [
        home.config(),
        home.limits(),
        home.agents(),
        home.ca_certificate(),
        home.ca_key(),
        home.log_key(),
        home.wallet_key(),
        home.sandbox_identity(),
        home.sandbox_ca(),
        home.sandbox_stripe_key(),
    ];
    match files.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Failure::usage(format!(
            "{} already exists and was not overwritten; nothing was created. Choose another --dir",
            path.display()
        ))),
    }
}

fn make_wallet(home: &Home) -> Result<alloy_primitives::Address, Failure> {
    let (wallet, secret) = Wallet::generate().map_err(|error| Failure::negative(error.to_string()))?;
    home::write_new(&home.wallet_key(), secret.expose_secret().as_bytes(), Readers::Owner)?;
    Ok(wallet.address())
}

/// The seed of the Ed25519 key that signs the journal's checkpoints.
fn log_key() -> Result<zeroize::Zeroizing<String>, Failure> {
    use base64::Engine;
    let seed = clock::random::<32>()
        .map_err(|error| Failure::negative(format!("the operating system gave no random bytes: {error}")))?;
    let seed = zeroize::Zeroizing::new(seed);
    let text = base64::engine::general_purpose::STANDARD.encode(seed.as_slice());
    Ok(zeroize::Zeroizing::new(format!("ed25519-seed {text}\n")))
}

fn config_template(with_wallet: bool) -> String {
    let wallet = if with_wallet {
        "[wallet.evm]\nkey = \"file:wallet.key\"\n"
    } else {
        "# [wallet.evm]\n# key = \"file:wallet.key\"          # or \"env:NAME\", or \"keystore:PATH\"; without a key nothing can be paid\n"
    };
    format!(
        "\
# bursar.toml: the operator's file. Everything has a default; bursar.example.toml documents every key.
# Spending limits are in limits.toml, which finance owns.

[proxy]
listen = \"127.0.0.1:8402\"

{wallet}
# Networks to pay on; there is no default. Without `rpc` nodes, bursar cannot verify payments on the chain.
# [networks.\"eip155:8453\"]             # Base
# rpc = [\"https://mainnet.base.org\"]
# [networks.\"eip155:84532\"]            # Base Sepolia, for testing
# rpc = [\"https://sepolia.base.org\"]
"
    )
}

fn limits_template() -> &'static str {
    "\
# limits.toml: spending limits, owned by finance. Changes apply within a second; a file with errors is ignored.
# An agent can spend only if its section or its group's sets an amount for a window, and every level allows it.
# limits.example.toml documents every key.

timezone = \"UTC\"

# [account]
# day = \"50.00\"

# [agents.research]
# per_transaction = \"0.50\"
# day = \"5.00\"
"
}

fn config_for_sandbox(url: &str) -> String {
    format!(
        "\
# bursar.toml: the operator's file, set up by `bursar init --sandbox` to buy from `bursar sandbox --dir`. Nothing here
# moves real money. bursar.example.toml documents every key.

[proxy]
listen = \"127.0.0.1:8402\"

[upstream]
extra_ca = \"sandbox-ca.pem\"                    # trusts the sandbox's certificate
allow_private = [\"127.0.0.0/8\", \"::1/128\"]   # the sandbox is on this machine

[wallet.evm]
key = \"file:wallet.key\"

[networks.\"eip155:84532\"]
rpc = [\"{url}/rpc\"]                           # the sandbox's own chain

[stripe]
key = \"file:sandbox-stripe.key\"
payment_method = \"pm_card_visa\"
api_base = \"{url}\"
"
    )
}

fn limits_for_sandbox() -> String {
    limits_template().replace(
        "# [agents.research]\n# per_transaction = \"0.50\"\n# day = \"5.00\"\n",
        "[agents.research]\nper_transaction = \"0.50\"\nday = \"5.00\"\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, limits};

    #[test]
    fn the_sandbox_gets_a_budget_and_a_valid_configuration() {
        let limits = limits::parse("limits.toml", &limits_for_sandbox()).unwrap();
        assert!(limits.agents.contains_key("research"));
        let config = Config::parse(
            "bursar.toml",
            &config_for_sandbox(SANDBOX_URL),
            std::path::Path::new("/d"),
        )
        .unwrap();
        assert!(config.wallet.is_some() && config.stripe.is_some() && config.networks.len() == 1);
    }
}
