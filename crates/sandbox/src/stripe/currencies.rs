//! The currencies that Stripe supports, from its public list, and the minimum card charge in some of them (MPP §6.1).

#[rustfmt::skip]
const KNOWN: [&str; 139] = [
    "aed", "afn", "all", "amd", "ang", "aoa", "ars", "aud", "awg", "azn", "bam", "bbd", "bdt", "bgn", "bhd", "bif",
    "bmd", "bnd", "bob", "brl", "bsd", "bwp", "byn", "bzd", "cad", "cdf", "chf", "clp", "cny", "cop", "crc", "cve",
    "czk", "djf", "dkk", "dop", "dzd", "egp", "etb", "eur", "fjd", "fkp", "gbp", "gel", "gip", "gmd", "gnf", "gtq",
    "gyd", "hkd", "hnl", "htg", "huf", "idr", "ils", "inr", "isk", "jmd", "jod", "jpy", "kes", "kgs", "khr", "kmf",
    "krw", "kwd", "kyd", "kzt", "lak", "lbp", "lkr", "lrd", "lsl", "mad", "mdl", "mga", "mkd", "mmk", "mnt", "mop",
    "mur", "mvr", "mwk", "mxn", "myr", "mzn", "nad", "ngn", "nio", "nok", "npr", "nzd", "omr", "pab", "pen", "pgk",
    "php", "pkr", "pln", "pyg", "qar", "ron", "rsd", "rub", "rwf", "sar", "sbd", "scr", "sek", "sgd", "shp", "sle",
    "sos", "srd", "std", "szl", "thb", "tjs", "tnd", "top", "try", "ttd", "twd", "tzs", "uah", "ugx", "usd", "uyu",
    "uzs", "vnd", "vuv", "wst", "xaf", "xcd", "xof", "xpf", "yer", "zar", "zmw",
];

/// The minimum charge, in minor units.
const LEAST: [(&str, u64); 4] = [("usd", 50), ("eur", 50), ("gbp", 30), ("jpy", 50)];

/// The currency in its static form. `None` if it is unknown, or not in lower case as the types require.
pub(super) fn known(text: &str) -> Option<&'static str> {
    KNOWN.into_iter().find(|known| *known == text)
}

pub(super) fn least(currency: &str) -> u64 {
    LEAST
        .iter()
        .find_map(|(known, least)| (*known == currency).then_some(*least))
        .unwrap_or(1)
}
