//! `bursar wallet show`, and where the key may be stored.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::{USAGE, done, fails, json_lines, stderr, stdout};
use crate::support::bursar::{WALLET, WALLET_KEY, bin, setup};

#[test]
fn the_wallet_comes_from_variable_file_or_keystore() {
    let home = setup().home();
    let dir = home.path();
    let first_line = |output: Output| stdout(&output).lines().next().unwrap().to_owned();
    assert_eq!(first_line(done(dir, &["wallet", "show"])), WALLET);
    let line = json_lines(&done(dir, &["wallet", "show", "--json"])).remove(0);
    assert_eq!(
        (&line["address"], &line["symbol"]),
        (&WALLET.to_lowercase().into(), &"USDC".into())
    );
    assert!(
        line["atoms"].is_null() && line["error"].as_str().unwrap().contains("no rpc"),
        "{line}"
    );
    let mut unset = Command::new(bin());
    let unset = unset
        .args(["wallet", "show", "--dir"])
        .arg(dir)
        .env_remove("BURSAR_TEST_WALLET")
        .output()
        .unwrap();
    assert_eq!(unset.status.code(), Some(USAGE));
    assert!(stderr(&unset).contains("BURSAR_TEST_WALLET is not set"), "{unset:?}");

    let configure = |wallet: &str| {
        let networks = "[networks.\"eip155:84532\"]\nrpc = []\n";
        std::fs::write(dir.join("bursar.toml"), format!("{wallet}{networks}")).unwrap();
    };
    configure("");
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["bursar.toml has no wallet", "[wallet.evm]", "file:PATH"],
    );

    let key = dir.join("my.key");
    configure("[wallet.evm]\nkey = \"file:my.key\"\n");
    fails(dir, &["wallet", "show"], USAGE, &["my.key", "No such file"]);
    write_private(&key, WALLET_KEY);
    assert_eq!(first_line(done(dir, &["wallet", "show"])), WALLET);
    write_private(&key, "zz");
    let said = fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["[wallet.evm]", "file:my.key", "64 hexadecimal digits"],
    );
    assert!(!said.contains("zz"));
    fails(dir, &["serve"], USAGE, &["[wallet.evm]", "file:my.key"]);
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["can be read by other users", "chmod 600"],
    );

    // The example of the Web3 Secret Storage Definition, as published.
    const KEYSTORE: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},"ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},"mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    configure("[wallet.evm]\nkey = \"keystore:wallet.json\"\npassword = \"file:password\"\n");
    write_private(&dir.join("wallet.json"), KEYSTORE);
    write_private(&dir.join("password"), "testpassword\n");
    assert_eq!(
        first_line(done(dir, &["wallet", "show"])),
        "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b"
    );
    write_private(&dir.join("password"), "wrong\n");
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["keystore:", "wallet.json", "password"],
    );
}

fn write_private(path: &Path, text: &str) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}
