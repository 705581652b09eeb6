//! The closed table of networks, tokens and currencies: the only source of decimals and of a token's EIP-712 name and
//! version.
//!
//! A challenge can name a token but never describe one: what is not in this table is not paid (R21 and R22,
//! threats 1.6, 1.7, 1.19). A token stands for one unit of its currency. One that stands for a US dollar counts as one;
//! another counts at the rate that finance wrote.
//!
//! Sources: the token table of the x402 reference client 2.27.0, and the token tables of its v1 part where a comment
//! says "v1 table" (x402 §3). Where a comment says "Circle", the address is from Circle's list of contracts
//! (developers.circle.com/stablecoins/usdc-contract-addresses and eurc-contract-addresses). `DOMAIN_SEPARATOR` of the
//! contracts, as read from the chains, is in `fixtures/tokens`; a test signs for each. Tokens without
//! `transferWithAuthorization` are listed too, so that the reason for not paying is exact.

mod currency;

use std::fmt;

use alloy_primitives::{Address, address};

pub use currency::{Currency, currencies, currency};
use currency::{DOLLARS, EUROS};

/// Where money moves, written as in CAIP-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// `eip155:<chain id>`; the chain id is never zero.
    Eip155(u64),
    /// `stripe:live` or `stripe:test`.
    Stripe(Mode),
}

/// Whether Stripe really moves money or only simulates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    Live,
    Test,
}

/// What is paid with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    Token(&'static Token),
    /// Through Stripe.
    Fiat(Mode, &'static Currency),
}

/// What a token contract can do for a payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// `transferWithAuthorization` in addition to ERC-20.
    Eip3009,
    /// Payable only through Permit2.
    Erc20,
    /// Tempo's own standard, payable by Tempo transactions.
    Tip20,
}

/// One token contract. Only this module creates them.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    pub chain: u64,
    pub address: Address,
    /// For people; nothing depends on it.
    pub symbol: &'static str,
    /// What one whole token stands for.
    pub currency: &'static Currency,
    pub decimals: u8,
    /// `name` of the token's EIP-712 domain.
    pub eip712_name: &'static str,
    /// `version` of the token's EIP-712 domain.
    pub eip712_version: &'static str,
    pub standard: Standard,
}

impl Network {
    /// Reads a CAIP-2 name strictly: `eip155:` and a chain id from 1 to 2^64 - 1 without leading zeros, or one of
    /// Stripe's two.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(mode) = text.strip_prefix("stripe:") {
            return Mode::parse(mode).map(Self::Stripe);
        }
        let id = text.strip_prefix("eip155:")?;
        if id.starts_with('0') || !id.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        id.parse().ok().map(Self::Eip155)
    }

    /// The network with an x402 v1 name such as `base-sepolia`.
    pub fn from_v1_name(name: &str) -> Option<Self> {
        V1_NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, id)| Self::Eip155(*id))
    }

    /// `None` for networks that are not chains.
    pub const fn chain_id(self) -> Option<u64> {
        match self {
            Self::Eip155(id) => Some(id),
            Self::Stripe(_) => None,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eip155(id) => write!(f, "eip155:{id}"),
            Self::Stripe(mode) => write!(f, "stripe:{}", mode.name()),
        }
    }
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::Test].into_iter().find(|mode| mode.name() == text)
    }
}

impl Asset {
    pub const fn network(self) -> Network {
        match self {
            Self::Token(token) => token.network(),
            Self::Fiat(mode, _) => Network::Stripe(mode),
        }
    }

    /// For people. The only decisions that depend on it are about assets that limits.toml lists by symbol.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Token(token) => token.symbol,
            Self::Fiat(_, currency) => currency.symbol,
        }
    }

    pub const fn decimals(self) -> u8 {
        match self {
            Self::Token(token) => token.decimals,
            Self::Fiat(_, currency) => currency.decimals,
        }
    }

    pub const fn token(self) -> Option<&'static Token> {
        match self {
            Self::Token(token) => Some(token),
            Self::Fiat(..) => None,
        }
    }

    /// What one whole unit stands for.
    pub const fn currency(self) -> &'static Currency {
        match self {
            Self::Token(token) => token.currency,
            Self::Fiat(_, currency) => currency,
        }
    }

    /// Whether one unit counts as one dollar by definition.
    pub fn is_dollar(self) -> bool {
        self.currency().is_dollar()
    }

    /// The CAIP-19 id in lower case: `eip155:8453/erc20:0x833589fc…`, `stripe:live/iso4217:usd`.
    pub fn caip19(self) -> String {
        match self {
            Self::Token(token) => token.caip19(),
            Self::Fiat(mode, currency) => format!("stripe:{}/iso4217:{}", mode.name(), currency.code),
        }
    }

    /// Reads [`Asset::caip19`]; an address may be written in any case.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((network, code)) = text.split_once("/iso4217:") {
            let Network::Stripe(mode) = Network::parse(network)? else {
                return None;
            };
            return currency(code).map(|currency| Self::Fiat(mode, currency));
        }
        let (network, address) = text.split_once("/erc20:")?;
        token(Network::parse(network)?, &address.parse().ok()?).map(Self::Token)
    }
}

impl Token {
    pub const fn network(&self) -> Network {
        Network::Eip155(self.chain)
    }

    /// The CAIP-19 id in lower case: `eip155:8453/erc20:0x833589fc…`.
    pub fn caip19(&self) -> String {
        format!("{}/erc20:{:#x}", self.network(), self.address)
    }
}

/// The token at `address`, if it is in the table. Addresses are compared as bytes, so spelling does not matter.
pub fn token(network: Network, address: &Address) -> Option<&'static Token> {
    tokens_of(network).find(|token| token.address == *address)
}

/// The whole table.
pub fn tokens() -> impl Iterator<Item = &'static Token> {
    TOKENS.iter()
}

/// All tokens of one network; empty for an unknown network.
pub fn tokens_of(network: Network) -> impl Iterator<Item = &'static Token> {
    TOKENS.iter().filter(move |token| token.network() == network)
}

/// x402 v1 network names. Up to `skale-base-sepolia` they come from the original v1 library, the rest from the
/// reference client 2.27.0 (x402 §3). Solana's names are omitted because Solana is not an EVM chain.
const V1_NAMES: &[(&str, u64)] = &[
    ("base", 8453),
    ("base-sepolia", 84_532),
    ("avalanche", 43_114),
    ("avalanche-fuji", 43_113),
    ("polygon", 137),
    ("polygon-amoy", 80_002),
    ("sei", 1329),
    ("sei-testnet", 1328),
    ("iotex", 4689),
    ("peaq", 3338),
    ("story", 1514),
    ("abstract", 2741),
    ("abstract-testnet", 11_124),
    ("educhain", 41_923),
    ("skale-base-sepolia", 324_705_682),
    ("ethereum", 1),
    ("sepolia", 11_155_111),
    ("monad", 143),
    ("celo", 42_220),
    ("megaeth", 4326),
    ("stable", 988),
    ("stable-testnet", 2201),
    ("flare", 14),
];

const fn eip3009(chain: u64, address: Address, symbol: &'static str, name: &'static str) -> Token {
    Token {
        chain,
        address,
        symbol,
        currency: DOLLARS,
        decimals: 6,
        eip712_name: name,
        eip712_version: "2",
        standard: Standard::Eip3009,
    }
}

/// USDC from Circle, or from a bridge that follows Circle's contract: 6 decimals, version "2". The EIP-712 name differs
/// between chains; Base ("USD Coin") and Base Sepolia ("USDC") are the classic trap.
const fn usdc(chain: u64, address: Address, name: &'static str) -> Token {
    eip3009(chain, address, "USDC", name)
}

/// Circle's euro, by the same contract.
const fn eurc(chain: u64, address: Address) -> Token {
    let mut token = eip3009(chain, address, "EURC", "EURC");
    token.currency = EUROS;
    token
}

/// Tokens of other issuers, with EIP-3009 and version "1".
const fn version_1(chain: u64, address: Address, symbol: &'static str, name: &'static str) -> Token {
    let mut token = eip3009(chain, address, symbol, name);
    token.eip712_version = "1";
    token
}

/// Tokens without EIP-3009: payable only through Permit2.
const fn permit2(chain: u64, address: Address, symbol: &'static str, name: &'static str, decimals: u8) -> Token {
    let mut token = version_1(chain, address, symbol, name);
    token.decimals = decimals;
    token.standard = Standard::Erc20;
    token
}

/// Tokens on Tempo. None of our signatures uses their EIP-712 domain.
const fn tip20(chain: u64, address: Address, symbol: &'static str) -> Token {
    let mut token = version_1(chain, address, symbol, symbol);
    token.standard = Standard::Tip20;
    token
}

#[rustfmt::skip]
static TOKENS: &[Token] = &[
    // Base, Base Sepolia; EURC from Circle
    usdc(8453, address!("0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"), "USD Coin"),
    usdc(84_532, address!("0x036cbd53842c5426634e7929541ec2318f3dcf7e"), "USDC"),
    eurc(8453, address!("0x60a3e35cc302bfa44cb288bc5a4f316fdb1adb42")),
    eurc(84_532, address!("0x808456652fdb597867f38412077a9182bf77359f")),
    // Ethereum; Sepolia from Circle
    usdc(1, address!("0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"), "USD Coin"),
    usdc(11_155_111, address!("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238"), "USDC"),
    // OP Mainnet, OP Sepolia: Circle
    usdc(10, address!("0x0b2c639c533813f4aa9d7837caf62653d097ff85"), "USD Coin"),
    usdc(11_155_420, address!("0x5fd84259d66cd46123540766be93dfe6d43130d7"), "USDC"),
    // World Chain: Circle, which took over the bridged contract
    usdc(480, address!("0x79a02482a880bce3f13e09da970dc34db4cd24d1"), "USDC"),
    // Unichain, Unichain Sepolia: Circle
    usdc(130, address!("0x078d782b760474a361dda0af3839290b0ef57ad6"), "USDC"),
    usdc(1301, address!("0x31d0220469e10c4e71834a79b1f276d740d3768f"), "USDC"),
    // HyperEVM, Sonic: Circle
    usdc(999, address!("0xb88339cb7199b77e23db6e890353e22632ba630f"), "USDC"),
    usdc(146, address!("0x29219dd400f2bf60e5a23d13be72b486d4038894"), "USDC"),
    // Polygon; Amoy from the v1 table
    usdc(137, address!("0x3c499c542cef5e3811e1192ce70d8cc03d5c3359"), "USD Coin"),
    usdc(80_002, address!("0x41e94eb019c0762f9bfcf9fb1e58725bfb0e7582"), "USDC"),
    // Arbitrum One, Arbitrum Sepolia
    usdc(42_161, address!("0xaf88d065e77c8cc2239327c5edb3a432268e5831"), "USD Coin"),
    usdc(421_614, address!("0x75faf114eafb1bdbe2f0316df893fd58ce46aa4d"), "USD Coin"),
    // Avalanche; Fuji from the v1 table
    usdc(43_114, address!("0xb97ef9ef8734c71904d8002f8b6bc66dd9c48a6e"), "USD Coin"),
    usdc(43_113, address!("0x5425890298aed601595a70ab815c96711a31bc65"), "USD Coin"),
    // Monad: release 2.10.0 said "USD Coin", 2.27.0 corrected it
    usdc(143, address!("0x754704bc059f8c67012fed69bc8a327a5aafb603"), "USDC"),
    // Sei and its testnet
    usdc(1329, address!("0xe15fc38f6d8c56af07bbcbe3baf5708a2bf42392"), "USDC"),
    usdc(1328, address!("0x4fcf1784b31630811181f670aea7a7bef803eaed"), "USDC"),
    // Celo, Celo Sepolia; Tether's two tokens on Celo
    usdc(42_220, address!("0xceba9300f2b948710d2653dd7b07f33a8b32118c"), "USDC"),
    usdc(11_142_220, address!("0x01c5c0122039549ad1493b8220cabedd739bc44e"), "USDC"),
    version_1(42_220, address!("0x48065fbbe25f71c9282ddf5e1cd6d6a887483d5e"), "USDT", "Tether USD"),
    version_1(42_220, address!("0xd2ab3c9a02dbbab236bfec45d1d755df4267f771"), "USAT", "Tether America USD"),
    // XDC, Apothem
    usdc(50, address!("0xfa2958cb79b0491cc627c1557f441ef849ca8eb1"), "USDC"),
    usdc(51, address!("0xb5ab69f7bbada22b28e79c8ffaece55ef1c771d4"), "USDC"),
    // IoTeX: bridged, from the v1 table
    usdc(4689, address!("0xcdf79194c6c285077a58da47641d4dbe51f63542"), "Bridged USDC"),
    // ADI, HPP, HPP Sepolia: bridged by Circle's standard
    eip3009(36_900, address!("0x9cb8142aebbcdc60af7c97af897a67a8f3ca71c2"), "USDC.e", "USDC.e"),
    eip3009(190_415, address!("0x401ecb1d350407f13ba348573e5630b83638e30d"), "USDC.e", "Bridged USDC"),
    eip3009(181_228, address!("0x401ecb1d350407f13ba348573e5630b83638e30d"), "USDC.e", "Bridged USDC"),
    // Stable and its testnet, Flare
    version_1(988, address!("0x779ded0c9e1022225f8e0630b35a9b54be713736"), "USDT0", "USDT0"),
    version_1(2201, address!("0x78cf24370174180738c5b8e352b6d14c83a6c9a9"), "USDT0", "USDT0"),
    version_1(14, address!("0xe7cd86e13ac4309349f30b3435a9d337750fc82d"), "USDT0", "USD\u{20ae}0"),
    // MegaETH, Mezo and its testnet: 18 decimals
    permit2(4326, address!("0xfafddbb3fc7688494971a79cc65dca3ef82079e7"), "MegaUSD", "MegaUSD", 18),
    permit2(31_612, address!("0xdd468a1ddc392dcdbef6db6e34e89aa338f9f186"), "mUSD", "Mezo USD", 18),
    permit2(31_611, address!("0x118917a40faf1cd7a13db0ef56c86de7973ac503"), "mUSD", "Mezo USD", 18),
    // Radius and its testnet, Igra
    permit2(723_487, address!("0x33ad9e4bd16b69b5bfded37d8b5d9ff9aba014fb"), "SBC", "Stable Coin", 6),
    permit2(72_344, address!("0x33ad9e4bd16b69b5bfded37d8b5d9ff9aba014fb"), "SBC", "Stable Coin", 6),
    permit2(38_833, address!("0xa5b8bf902b2844da17d4506cc827f7f1681735e7"), "USDC", "USDC", 6),
    // Tempo, and its testnet Moderato (MPP §8)
    tip20(4217, address!("0x20c0000000000000000000000000000000000000"), "pathUSD"),
    tip20(4217, address!("0x20c000000000000000000000b9537d11c60e8b50"), "USDC.e"),
    tip20(42_431, address!("0x20c0000000000000000000000000000000000000"), "pathUSD"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn network_names_are_strict() {
        assert_eq!(Network::parse("eip155:84532"), Some(Network::Eip155(84_532)));
        assert_eq!(
            Network::parse("eip155:18446744073709551615"),
            Some(Network::Eip155(u64::MAX))
        );
        for bad in [
            "",
            "eip155",
            "eip155:",
            "eip155:0",
            "eip155:084532",
            "eip155:84532abc",
            "eip155:+1",
            "eip155: 1",
            "eip155:18446744073709551616",
            "EIP155:1",
            "base",
            "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
            "eip155:\u{0661}",
            "stripe:",
            "stripe:Live",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn v1_names_are_one_to_one() {
        assert_eq!(Network::from_v1_name("base"), Some(Network::Eip155(8453)));
        assert_eq!(Network::from_v1_name("Base"), None);
        assert_eq!(Network::from_v1_name("solana"), None);
        let names: HashSet<_> = V1_NAMES.iter().map(|(name, _)| name).collect();
        let ids: HashSet<_> = V1_NAMES.iter().map(|(_, id)| id).collect();
        assert_eq!((names.len(), ids.len()), (V1_NAMES.len(), V1_NAMES.len()));
    }

    #[test]
    fn a_token_is_in_the_table_once() {
        let ids: HashSet<_> = TOKENS.iter().map(Token::caip19).collect();
        assert_eq!(ids.len(), TOKENS.len());
    }

    #[test]
    fn base_and_base_sepolia_differ_in_their_name() {
        let base = tokens_of(Network::Eip155(8453)).next().unwrap();
        let sepolia = tokens_of(Network::Eip155(84_532)).next().unwrap();
        assert_eq!((base.eip712_name, base.eip712_version), ("USD Coin", "2"));
        assert_eq!((sepolia.eip712_name, sepolia.eip712_version), ("USDC", "2"));
        assert_eq!(
            base.caip19(),
            "eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
        );
        // The same address on another chain is a different token, or no token (threat 1.7).
        assert_eq!(token(sepolia.network(), &base.address), None);
    }

    #[test]
    fn assets_read_back_as_they_are_named() {
        let usd = Asset::Fiat(Mode::Test, currency("usd").unwrap());
        assert_eq!(usd.caip19(), "stripe:test/iso4217:usd");
        assert_eq!(usd.network().to_string(), "stripe:test");
        let every = tokens().map(Asset::Token).chain([usd]);
        for asset in every {
            assert_eq!(Asset::parse(&asset.caip19()), Some(asset));
            assert_eq!(Network::parse(&asset.network().to_string()), Some(asset.network()));
        }
        for bad in [
            "eip155:1/iso4217:usd",
            "stripe:test/erc20:usd",
            "stripe:test/iso4217:xxx",
            "usd",
        ] {
            assert_eq!(Asset::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_with_18_decimals_are_known_as_such() {
        for chain in [4326, 31_612, 31_611] {
            let asset = tokens_of(Network::Eip155(chain)).next().unwrap();
            assert_eq!((asset.decimals, asset.standard), (18, Standard::Erc20));
        }
    }
}
