//! `bursar init`: everything a data directory needs, and nothing that exists is touched.

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

#[derive(Args)]
pub struct Init {
    /// Also make a new EVM wallet key and name it in bursar.toml
    #[arg(long)]
    wallet: bool,
}

/// What a new directory was given.
pub struct Made {
    pub wallet: Option<alloy_primitives::Address>,
}

impl Init {
    pub fn run(self, home: &Home) -> Result<Exit, Failure> {
        let made = make(home, self.wallet)?;
        let dir = home.root().display();
        say!("{dir} is ready.")?;
        if let Some(address) = made.wallet {
            say!()?;
            say!("Wallet {address}")?;
            say!(
                "  Its key is {dir}/wallet.key. Back this up: whoever has it has the money, and without it the money is lost."
            )?;
            say!("  Fund it with USDC on a network that you name under [networks] in bursar.toml.")?;
        }
        say!()?;
        let word = sh_word(&home.root().display().to_string());
        let missing = match made.wallet {
            Some(_) => "[networks], on which chains to pay",
            None => "[wallet.evm] and [networks], with which key and on which chains to pay",
        };
        say!("Next:")?;
        say!("  edit {dir}/bursar.toml: {missing}; so far nothing can be paid")?;
        say!("  edit {dir}/limits.toml: what each agent may spend; so far nobody may spend anything")?;
        say!("  bursar agents add research --dir {word}     # prints the agent's token, once")?;
        say!("  bursar serve --dir {word}")?;
        say!("  bursar run --dir {word} --agent research -- curl https://example.com/")?;
        Ok(Exit::Done)
    }
}

/// Makes the directory's files. Used by the demo as well.
pub fn make(home: &Home, with_wallet: bool) -> Result<Made, Failure> {
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
    home::write_new(&home.limits(), limits_template().as_bytes(), Readers::Owner)?;
    let wallet = if with_wallet { Some(make_wallet(home)?) } else { None };
    // Last: the directory counts as initialised once this file is there.
    home::write_new(&home.config(), config_template(with_wallet).as_bytes(), Readers::Owner)?;
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
    ];
    match files.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Failure::usage(format!(
            "{} exists already and is not overwritten; give another --dir",
            path.display()
        ))),
    }
}

fn make_wallet(home: &Home) -> Result<alloy_primitives::Address, Failure> {
    let (wallet, secret) = Wallet::generate().map_err(|error| Failure::negative(error.to_string()))?;
    home::write_new(&home.wallet_key(), secret.expose_secret().as_bytes(), Readers::Owner)?;
    Ok(wallet.address())
}

/// The seed of the Ed25519 key that will sign checkpoints of the journal.
fn log_key() -> Result<zeroize::Zeroizing<String>, Failure> {
    use base64::Engine;
    let seed = clock::random::<32>().map_err(|error| Failure::negative(format!("no random bytes: {error}")))?;
    let seed = zeroize::Zeroizing::new(seed);
    let text = base64::engine::general_purpose::STANDARD.encode(seed.as_slice());
    Ok(zeroize::Zeroizing::new(format!("ed25519-seed {text}\n")))
}

fn config_template(with_wallet: bool) -> String {
    let wallet = if with_wallet {
        "[wallet.evm]\nkey = \"file:wallet.key\"\n"
    } else {
        "# [wallet.evm]\n# key = \"file:wallet.key\"          # or \"env:NAME\", or \"keystore:PATH\"; without a key nothing is paid\n"
    };
    format!(
        "\
# bursar.toml: the operator's file. Everything has a default; bursar.example.toml documents every key.
# What may be spent stands in limits.toml, which finance owns.

[proxy]
listen = \"127.0.0.1:8402\"

{wallet}
# Networks that may be paid on. There is no default; `rpc` may be empty, then nothing can be proven.
# [networks.\"eip155:8453\"]             # Base
# rpc = [\"https://mainnet.base.org\"]
# [networks.\"eip155:84532\"]            # Base Sepolia, for tests
# rpc = [\"https://sepolia.base.org\"]
"
    )
}

fn limits_template() -> &'static str {
    "\
# limits.toml: finance's file. Read again within a second when it changes; a broken file changes nothing.
# An agent spends only if its section, or its group's, has an amount window and every level allows it.
# limits.example.toml documents every key.

timezone = \"UTC\"

# [account]
# day = \"50.00\"

# [agents.research]
# per_transaction = \"0.50\"
# day = \"5.00\"
"
}
