//! Reads the sections of a file key by key. Any key that the code does not ask for is unknown.
//!
//! Values are read directly from toml's spanned tree, not through serde. So all mistakes in a file are reported at
//! once, each at the key or value that is wrong, and a number keeps the spelling its author gave it.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnose::{Document, nearest};
use super::secret::SecretSource;
use bursar_core::money::MicroUsd;

/// A table of the file, and the keys that have been asked for so far.
pub struct Section<'d> {
    document: &'d Document<'d>,
    /// Empty for the top level.
    path: String,
    table: &'d DeTable<'d>,
    known: Vec<&'static str>,
    holds_secrets: bool,
}

/// One key and its value, or one item of a list.
pub struct Entry<'d> {
    document: &'d Document<'d>,
    path: String,
    key: String,
    key_at: Range<usize>,
    value: &'d Spanned<DeValue<'d>>,
    holds_secrets: bool,
}

/// Keys that people know from other products, each with what to write here.
pub type Hints = &'static [(&'static str, &'static str)];

impl<'d> Section<'d> {
    pub fn top(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self {
            document,
            path: String::new(),
            table,
            known: Vec::new(),
            holds_secrets: false,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The entry under `key`, which counts as a known key from now on.
    pub fn take(&mut self, key: &'static str) -> Option<Entry<'d>> {
        self.known.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.entry(key, name.span(), value))
    }

    /// The section under `key`, if it exists and is a section.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'d>> {
        self.take(key)?.section()
    }

    /// Every entry of a section whose keys are names chosen by the author.
    pub fn named(self) -> Vec<Entry<'d>> {
        let entries = self.table.iter();
        entries
            .map(|(name, value)| self.entry(name.get_ref(), name.span(), value))
            .collect()
    }

    /// Reports every key that was not asked for.
    pub fn close(self, hints: Hints) {
        for (name, _) in self.table.iter() {
            let key: &str = name.get_ref();
            if self.known.contains(&key) {
                continue;
            }
            let what = match self.path.as_str() {
                "" => format!("`{key}` is not a known key or section"),
                path => format!("[{path}] has no key `{key}`"),
            };
            self.document.report(&name.span(), what, self.way_out(key, hints));
        }
    }

    fn way_out(&self, key: &str, hints: Hints) -> String {
        if let Some((_, hint)) = hints.iter().find(|(word, _)| *word == key) {
            return (*hint).to_owned();
        }
        if let Some(known) = nearest(key, self.known.iter().copied()) {
            return format!("Did you mean `{known}`?");
        }
        format!("Known keys: {}.", self.known.join(", "))
    }

    fn entry(&self, key: &str, key_at: Range<usize>, value: &'d Spanned<DeValue<'d>>) -> Entry<'d> {
        let name = quoted_if_needed(key);
        let path = match self.path.as_str() {
            "" => name,
            path => format!("{path}.{name}"),
        };
        Entry {
            document: self.document,
            path,
            key: key.to_owned(),
            key_at,
            value,
            holds_secrets: self.holds_secrets,
        }
    }
}

impl<'d> Entry<'d> {
    /// Keeps the values here and below out of messages.
    pub fn holding_secrets(mut self) -> Self {
        self.holds_secrets = true;
        self
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value if it is a string; any other type is not reported as a mistake.
    pub fn if_text(&self) -> Option<&'d str> {
        self.value.get_ref().as_str()
    }

    pub fn section(&self) -> Option<Section<'d>> {
        let Some(table) = self.value.get_ref().as_table() else {
            return self.mistyped(
                "a section",
                &format!("Write [{}] and put its keys below it.", self.path),
            );
        };
        Some(Section {
            document: self.document,
            path: self.path.clone(),
            table,
            known: Vec::new(),
            holds_secrets: self.holds_secrets,
        })
    }

    pub fn text(&self) -> Option<&'d str> {
        let text = self.value.get_ref().as_str();
        text.or_else(|| self.mistyped("a string", &format!("Write {} = \"…\", with the quotes.", self.key)))
    }

    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        value.or_else(|| {
            let key = &self.key;
            self.mistyped(
                "true or false",
                &format!("Write {key} = true or {key} = false, without quotes."),
            )
        })
    }

    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.get_ref().as_integer() else {
            let quoted = self.value.get_ref().as_str();
            let meant = quoted.and_then(|text| text.parse().ok()).unwrap_or(1);
            return self.mistyped(
                "a whole number",
                &format!("Write {} = {}, without quotes.", self.key, meant.max(*range.start())),
            );
        };
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        value.filter(|v| range.contains(v)).or_else(|| {
            let (low, high) = range.clone().into_inner();
            let path = &self.path;
            let bounds = match high {
                u64::MAX => format!("at least {low}"),
                _ => format!("from {low} to {high}"),
            };
            self.reject(
                format!("{path}: {integer} is out of range"),
                format!("It must be {bounds}."),
            )
        })
    }

    /// US dollars as a string (R50).
    pub fn usd(&self) -> Option<MicroUsd> {
        let (path, key) = (&self.path, &self.key);
        let number = match self.value.get_ref() {
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Float(float) => float.to_string(),
            DeValue::String(text) => {
                return MicroUsd::parse(text).map_or_else(
                    |why| {
                        self.reject(
                            format!("{path}: \"{text}\" is not a valid amount in US dollars: {why}"),
                            format!(
                                "Write digits only, without a sign, with at most six decimals: {key} = \"{}\".",
                                meant_amount(text)
                            ),
                        )
                    },
                    Some,
                );
            }
            _ => {
                return self.mistyped("an amount of US dollars", &format!("Write {key} = \"5.00\"."));
            }
        };
        let meant = MicroUsd::parse(&number).map_or("5.00".to_owned(), |usd| usd.to_string());
        self.reject(
            format!("{path}: {number} is a bare number, but amounts must be written in quotes"),
            format!("Write {key} = \"{meant}\"."),
        )
    }

    /// Where a secret is kept. Mark the entry with [`Entry::holding_secrets`] first: somebody may have written the
    /// secret itself there.
    pub fn secret_source(&self) -> Option<SecretSource> {
        SecretSource::parse(self.text()?).or_else(|| {
            self.reject(
                format!("{} does not say where the secret is kept", self.path),
                "Write \"env:NAME\" or \"file:PATH\". If this was the secret itself, consider it exposed and replace \
                 it."
                .to_owned(),
            )
        })
    }

    /// One of a fixed set of words.
    pub fn word<T>(&self, parse: impl Fn(&str) -> Option<T>, known: &[&str]) -> Option<T> {
        let text = self.text()?;
        parse(text).or_else(|| {
            let known: Vec<String> = known.iter().map(|word| format!("\"{word}\"")).collect();
            self.reject(
                format!("{}: \"{text}\" is not a known value", self.path),
                format!("Write {}.", known.join(" or ")),
            )
        })
    }

    /// A person, by the name that the approval backend uses.
    pub fn person(&self) -> Option<String> {
        let name = self.text()?;
        let is_name = |c: char| !c.is_control() && !c.is_whitespace();
        if name.is_empty() || name.len() > 255 || !name.chars().all(is_name) {
            return self.reject(
                format!("{}: \"{name}\" is not a valid name for a person", self.path),
                "Write the name that the approval backend uses, such as \"did:bkey:z6Mk…\" or \"user-17\".".to_owned(),
            );
        }
        Some(name.to_owned())
    }

    /// The items of a list that must not be empty.
    pub fn list(&self, if_empty: &str) -> Option<Vec<Entry<'d>>> {
        let items = self.items()?;
        if items.is_empty() {
            return self.reject(format!("{}: the list is empty", self.path), if_empty.to_owned());
        }
        Some(items)
    }

    /// The items of a list that may be empty.
    pub fn items(&self) -> Option<Vec<Entry<'d>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            return self.mistyped("a list", &format!("Write {} = [\"…\"], with the brackets.", self.key));
        };
        Some(array.iter().map(|value| self.item(value)).collect())
    }

    /// One string, or a list of them.
    pub fn one_or_more(&self) -> Option<Vec<Entry<'d>>> {
        if self.value.get_ref().is_str() {
            return Some(vec![self.item(self.value)]);
        }
        self.items()
    }

    /// Reports the value as wrong.
    pub fn reject<T>(&self, what: String, way_out: String) -> Option<T> {
        if self.holds_secrets {
            self.document.report_secret(&self.value.span(), what, way_out);
        } else {
            self.document.report(&self.value.span(), what, way_out);
        }
        None
    }

    /// Reports the key as wrong, whatever its value.
    pub fn reject_key<T>(&self, what: String, way_out: String) -> Option<T> {
        self.document.report(&self.key_at, what, way_out);
        None
    }

    fn mistyped<T>(&self, wanted: &str, way_out: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a section",
        };
        self.reject(
            format!("{} must be {wanted}, not {found}", self.path),
            way_out.to_owned(),
        )
    }

    fn item(&self, value: &'d Spanned<DeValue<'d>>) -> Entry<'d> {
        Entry {
            document: self.document,
            path: self.path.clone(),
            key: self.key.clone(),
            key_at: self.key_at.clone(),
            value,
            holds_secrets: self.holds_secrets,
        }
    }
}

/// `$20`, `20 USD` and `1,000.50` as they should be written; `5.00` for what cannot be guessed.
fn meant_amount(text: &str) -> String {
    let bare = text.trim().trim_start_matches('$');
    let bare = bare
        .trim_end_matches(|c: char| c == '$' || c.is_ascii_alphabetic())
        .trim();
    // A comma before three digits separates thousands; any other one could stand for the decimal point.
    let mut groups = bare.split('.').next().unwrap_or_default().split(',').skip(1);
    let grouped = groups.all(|group| group.len() == 3);
    let plain = if grouped {
        bare.replace(',', "")
    } else {
        bare.to_owned()
    };
    MicroUsd::parse(&plain).map_or("5.00".to_owned(), |usd| usd.to_string())
}

pub(crate) fn quoted_if_needed(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(bare) {
        key.to_owned()
    } else {
        format!("\"{key}\"")
    }
}
