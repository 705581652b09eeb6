//! What must hold whatever others send: one function for each parser of foreign bytes.
//!
//! A property takes any bytes and returns, or panics because a rule is broken. The same functions are fuzzed
//! (`fuzz_targets`) and run over the seeds and over every input that ever broke one (`tests/replay.rs`). Seeds are made
//! from `fixtures/` ([`seeds`]).

pub mod answers;
pub mod approvals;
pub mod challenges;
pub mod credentials;
pub mod fields;
pub mod journal;
pub mod messages;
mod opinion;
pub mod seeds;
pub mod services;

use std::fs;
use std::path::{Path, PathBuf};

/// A parser's property, and inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident: $check:path, $seeds:path;)+) => {
        /// Every target; each has a file in `fuzz_targets`.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            check: $check,
            seeds: $seeds,
        },)+];
    };
}

targets! {
    json: challenges::json_text, seeds::json;
    base64: challenges::base64_text, seeds::base64;
    x402_v1: challenges::x402_v1, seeds::x402_v1;
    x402_v2: challenges::x402_v2, seeds::x402_v2;
    mpp_field: challenges::mpp_field, seeds::mpp_fields;
    mpp_request: challenges::mpp_request, seeds::mpp_requests;
    head: challenges::head, seeds::heads;
    resource: challenges::resource_host, seeds::resources;
    credential: credentials::extensions, seeds::extensions;
    stored_credential: credentials::stored, seeds::credentials;
    decode: answers::content_coding, seeds::bodies;
    receipt: answers::receipts, seeds::receipts;
    statement: answers::statement, seeds::statements;
    stripe_token: services::stripe_token, seeds::stripe_tokens;
    stripe_error: services::stripe_error, seeds::stripe_errors;
    bkey: services::bkey_answer, seeds::bkey;
    rpc: services::rpc_answer, seeds::rpc;
    token: approvals::token, seeds::tokens;
    claims: approvals::token_claims, seeds::claims;
    details: approvals::details, seeds::details;
    jwks: approvals::jwks, seeds::jwks;
    ciba_polls: approvals::ciba_polls, seeds::ciba_polls;
    ciba_documents: approvals::ciba_documents, seeds::ciba_documents;
    keyra: approvals::keyra, seeds::keyra;
    record: approvals::record, seeds::records;
    host: fields::host, seeds::hosts;
    hop: fields::hop_by_hop, seeds::hop;
    request: messages::request, seeds::requests;
    answer: messages::answer, seeds::answers;
    prefer: fields::prefer_wait, seeds::prefer;
    via: fields::via_loop, seeds::via;
    tls_hello: fields::tls_hello, seeds::tls_hellos;
    proxy_credential: fields::proxy_credential, seeds::proxy_credentials;
    entry: journal::entry, seeds::entries;
    scan: journal::journal, seeds::journals;
    changed_journal: journal::changed_journal, seeds::changes;
    note: journal::note, seeds::notes;
    signed_note: journal::signed_note, seeds::note_texts;
    pruned: journal::pruned_file, seeds::pruned;
    manifest: journal::manifest, seeds::manifests;
}

/// The target of that name.
pub fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Writes the seeds of a target to `seeds/NAME`, where `fuzz/run` looks for them.
pub fn write_seeds(name: &str) {
    let place = here().join("seeds").join(name);
    fs::create_dir_all(&place).expect("a directory");
    for (number, seed) in (target(name).seeds)().iter().enumerate() {
        fs::write(place.join(format!("{number:03}")), seed).expect("room for a file");
    }
}

/// Inputs that broke a property once, in the order of their names.
pub fn regressions(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(files) = fs::read_dir(here().join("regressions").join(name)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("a file"));
    paths.into_iter().map(read).collect()
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
