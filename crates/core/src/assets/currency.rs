//! The currencies that Stripe charges in, with the smallest unit in which it counts them (MPP §10.1, from Stripe's list
//! of currencies). Its units differ from ISO 4217: ISK and UGX are sent as if they had cents, although they have none.

/// A currency. Only this module creates them.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Currency {
    /// ISO 4217 in lower case, as challenges and Stripe write it.
    pub code: &'static str,
    /// The code in capitals, for people.
    pub symbol: &'static str,
    /// The number of digits after the decimal point in Stripe's amounts.
    pub decimals: u8,
}

impl Currency {
    pub fn is_dollar(&self) -> bool {
        self.code == "usd"
    }
}

/// The whole table.
pub fn currencies() -> impl Iterator<Item = &'static Currency> {
    CURRENCIES.iter()
}

/// The currency with this code, which must be in lower case.
pub fn currency(code: &str) -> Option<&'static Currency> {
    CURRENCIES.iter().find(|currency| currency.code == code)
}

const fn of(code: &'static str, symbol: &'static str, decimals: u8) -> Currency {
    Currency { code, symbol, decimals }
}

const US_DOLLAR: Currency = of("usd", "USD", 2);
const EURO: Currency = of("eur", "EUR", 2);
/// What nearly every token stands for.
pub(super) const DOLLARS: &Currency = &US_DOLLAR;
/// What EURC stands for.
pub(super) const EUROS: &Currency = &EURO;

#[rustfmt::skip]
static CURRENCIES: &[Currency] = &[
    // Two decimals
    US_DOLLAR,
    of("aed", "AED", 2),
    of("afn", "AFN", 2),
    of("all", "ALL", 2),
    of("amd", "AMD", 2),
    of("ang", "ANG", 2),
    of("aoa", "AOA", 2),
    of("ars", "ARS", 2),
    of("aud", "AUD", 2),
    of("awg", "AWG", 2),
    of("azn", "AZN", 2),
    of("bam", "BAM", 2),
    of("bbd", "BBD", 2),
    of("bdt", "BDT", 2),
    of("bgn", "BGN", 2),
    of("bmd", "BMD", 2),
    of("bnd", "BND", 2),
    of("bob", "BOB", 2),
    of("brl", "BRL", 2),
    of("bsd", "BSD", 2),
    of("bwp", "BWP", 2),
    of("byn", "BYN", 2),
    of("bzd", "BZD", 2),
    of("cad", "CAD", 2),
    of("cdf", "CDF", 2),
    of("chf", "CHF", 2),
    of("cny", "CNY", 2),
    of("cop", "COP", 2),
    of("crc", "CRC", 2),
    of("cve", "CVE", 2),
    of("czk", "CZK", 2),
    of("dkk", "DKK", 2),
    of("dop", "DOP", 2),
    of("dzd", "DZD", 2),
    of("egp", "EGP", 2),
    of("etb", "ETB", 2),
    EURO,
    of("fjd", "FJD", 2),
    of("fkp", "FKP", 2),
    of("gbp", "GBP", 2),
    of("gel", "GEL", 2),
    of("gip", "GIP", 2),
    of("gmd", "GMD", 2),
    of("gtq", "GTQ", 2),
    of("gyd", "GYD", 2),
    of("hkd", "HKD", 2),
    of("hnl", "HNL", 2),
    of("htg", "HTG", 2),
    of("huf", "HUF", 2),
    of("idr", "IDR", 2),
    of("ils", "ILS", 2),
    of("inr", "INR", 2),
    of("isk", "ISK", 2),
    of("jmd", "JMD", 2),
    of("kes", "KES", 2),
    of("kgs", "KGS", 2),
    of("khr", "KHR", 2),
    of("kyd", "KYD", 2),
    of("kzt", "KZT", 2),
    of("lak", "LAK", 2),
    of("lbp", "LBP", 2),
    of("lkr", "LKR", 2),
    of("lrd", "LRD", 2),
    of("lsl", "LSL", 2),
    of("mad", "MAD", 2),
    of("mdl", "MDL", 2),
    of("mkd", "MKD", 2),
    of("mmk", "MMK", 2),
    of("mnt", "MNT", 2),
    of("mop", "MOP", 2),
    of("mur", "MUR", 2),
    of("mvr", "MVR", 2),
    of("mwk", "MWK", 2),
    of("mxn", "MXN", 2),
    of("myr", "MYR", 2),
    of("mzn", "MZN", 2),
    of("nad", "NAD", 2),
    of("ngn", "NGN", 2),
    of("nio", "NIO", 2),
    of("nok", "NOK", 2),
    of("npr", "NPR", 2),
    of("nzd", "NZD", 2),
    of("pab", "PAB", 2),
    of("pen", "PEN", 2),
    of("pgk", "PGK", 2),
    of("php", "PHP", 2),
    of("pkr", "PKR", 2),
    of("pln", "PLN", 2),
    of("qar", "QAR", 2),
    of("ron", "RON", 2),
    of("rsd", "RSD", 2),
    of("rub", "RUB", 2),
    of("sar", "SAR", 2),
    of("sbd", "SBD", 2),
    of("scr", "SCR", 2),
    of("sek", "SEK", 2),
    of("sgd", "SGD", 2),
    of("shp", "SHP", 2),
    of("sle", "SLE", 2),
    of("sos", "SOS", 2),
    of("srd", "SRD", 2),
    of("std", "STD", 2),
    of("szl", "SZL", 2),
    of("thb", "THB", 2),
    of("tjs", "TJS", 2),
    of("top", "TOP", 2),
    of("try", "TRY", 2),
    of("ttd", "TTD", 2),
    of("twd", "TWD", 2),
    of("tzs", "TZS", 2),
    of("uah", "UAH", 2),
    of("ugx", "UGX", 2),
    of("uyu", "UYU", 2),
    of("uzs", "UZS", 2),
    of("wst", "WST", 2),
    of("xcd", "XCD", 2),
    of("yer", "YER", 2),
    of("zar", "ZAR", 2),
    of("zmw", "ZMW", 2),
    // No decimals
    of("bif", "BIF", 0),
    of("clp", "CLP", 0),
    of("djf", "DJF", 0),
    of("gnf", "GNF", 0),
    of("jpy", "JPY", 0),
    of("kmf", "KMF", 0),
    of("krw", "KRW", 0),
    of("mga", "MGA", 0),
    of("pyg", "PYG", 0),
    of("rwf", "RWF", 0),
    of("vnd", "VND", 0),
    of("vuv", "VUV", 0),
    of("xaf", "XAF", 0),
    of("xof", "XOF", 0),
    of("xpf", "XPF", 0),
    // Three decimals
    of("bhd", "BHD", 3),
    of("jod", "JOD", 3),
    of("kwd", "KWD", 3),
    of("omr", "OMR", 3),
    of("tnd", "TND", 3),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_in_one_form() {
        let codes: HashSet<_> = CURRENCIES.iter().map(|currency| currency.code).collect();
        assert_eq!(codes.len(), CURRENCIES.len());
        for currency in CURRENCIES {
            assert_eq!(currency.code.len(), 3);
            assert_eq!(currency.code.to_ascii_uppercase(), currency.symbol);
            assert_eq!(currency.symbol.to_ascii_lowercase(), currency.code);
        }
        assert_eq!(super::currency("USD"), None);
        assert_eq!(
            (super::currency("usd"), super::currency("eur")),
            (Some(DOLLARS), Some(EUROS))
        );
    }

    #[test]
    fn units_are_stripes() {
        for (code, decimals) in [
            ("usd", 2),
            ("jpy", 0),
            ("kwd", 3),
            ("isk", 2),
            ("ugx", 2),
            ("krw", 0),
            ("tnd", 3),
        ] {
            assert_eq!(super::currency(code).unwrap().decimals, decimals, "{code}");
        }
    }
}
