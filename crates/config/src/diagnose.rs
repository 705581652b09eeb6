//! Mistakes in a file, each with line, column, the line itself with a caret, what is wrong, and the way out.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::DeTable;

/// Why a file was not taken. Displays every mistake, one paragraph each.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {file}: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("{}", paragraphs(.0))]
    Invalid(Vec<Problem>),
}

/// One mistake. `Display` is meant for people:
///
/// ```text
/// limits.toml:9:1: [agents.research] has no key `daay`
///   9 | daay = "5.00"
///     | ^^^^
///   Did you mean `day`?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub what: String,
    pub way_out: String,
    excerpt: Excerpt,
}

/// The source line as it may be shown, and what in it to underline (in characters).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    caret: usize,
    width: usize,
}

/// What an excerpt may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Whole lines: the file holds no secrets.
    Open,
    /// Names, and the value that is wrong, but no other: somebody may have written a key where its source belongs.
    Guarded,
}

/// A file's text while it is read; collects its problems.
pub struct Document<'t> {
    file: &'t str,
    text: &'t str,
    confidence: Confidence,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Document<'t> {
    pub fn new(file: &'t str, text: &'t str, confidence: Confidence) -> Self {
        Self {
            file,
            text,
            confidence,
            problems: RefCell::default(),
        }
    }

    /// The file as TOML; a syntax error ends the reading here.
    pub fn table(&self) -> Result<Spanned<DeTable<'t>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let place = error.span().unwrap_or(0..0);
            let what = format!("not valid TOML: {}", error.message());
            let way_out = match error.message() {
                "duplicate key" if self.is_about(&place, &["[wallet.evm]", "evm"]) => {
                    "BKey signs, or a key of your own does, not both: keep evm = \"bkey\", or the section [wallet.evm]."
                }
                "duplicate key" => "Each key and each [section] may be written once: merge the two.",
                _ => "Texts stand in double quotes, sections in [brackets], one `key = value` a line.",
            };
            let shown = match self.confidence {
                Confidence::Open => self.excerpt(&place),
                Confidence::Guarded => self.nothing_but_the_key(&place),
            };
            ConfigError::Invalid(vec![self.problem(&place, shown, what, way_out.to_owned())])
        })
    }

    /// Whether the line at `place` begins with one of these.
    fn is_about(&self, place: &Range<usize>, beginnings: &[&str]) -> bool {
        let before = self.text.get(..place.start).unwrap_or_default();
        let line = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text.get(line..).unwrap_or_default().trim_start();
        beginnings.iter().any(|beginning| line.starts_with(beginning))
    }

    pub fn report(&self, place: &Range<usize>, what: String, way_out: String) {
        let problem = self.problem(place, self.excerpt(place), what, way_out);
        self.problems.borrow_mut().push(problem);
    }

    /// For a value that may be a secret: the line ends before it.
    pub fn report_secret(&self, place: &Range<usize>, what: String, way_out: String) {
        let problem = self.problem(place, self.nothing_but_the_key(place), what, way_out);
        self.problems.borrow_mut().push(problem);
    }

    /// `read`, if no problem was reported on the way.
    pub fn finish<T>(self, read: T) -> Result<T, ConfigError> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(read);
        }
        problems.sort_by_key(|p| (p.line, p.column));
        Err(ConfigError::Invalid(problems))
    }

    fn problem(&self, place: &Range<usize>, excerpt: Excerpt, what: String, way_out: String) -> Problem {
        let start = self.line_start(place.start);
        Problem {
            file: self.file.to_owned(),
            line: self.text[..start].matches('\n').count() + 1,
            column: self.text[start..floor(self.text, place.start)].chars().count() + 1,
            what,
            way_out,
            excerpt,
        }
    }

    fn excerpt(&self, place: &Range<usize>) -> Excerpt {
        let start = self.line_start(place.start);
        let line = self.text[start..].lines().next().unwrap_or("");
        let from = floor(line, place.start.saturating_sub(start));
        let to = floor(line, place.end.saturating_sub(start)).max(from);
        let (mut before, wrong, mut after) = (line[..from].to_owned(), &line[from..to], line[to..].to_owned());
        if self.confidence == Confidence::Guarded {
            // Up to the first `=` or quote there are only names; between that and the mistake there may be a value.
            let names = line[..from].find(['=', '"', '\'']).map_or(from, |i| i + 1);
            if !line[names..from].trim().is_empty() {
                before = format!("{} … ", line[..names].trim_end_matches(['"', '\'']));
            }
            after = match after.trim_start() {
                "" => String::new(),
                header if header.starts_with(']') => "]".to_owned(),
                value if value.starts_with('=') => " = …".to_owned(),
                _ => " …".to_owned(),
            };
        }
        Excerpt {
            caret: before.chars().count(),
            width: wrong.chars().count().max(1),
            text: format!("{before}{wrong}{after}").trim_end().to_owned(),
        }
    }

    fn nothing_but_the_key(&self, place: &Range<usize>) -> Excerpt {
        let start = self.line_start(place.start);
        let line = self.text[start..].lines().next().unwrap_or("");
        let text = match line.split_once('=') {
            Some((names, _)) if is_key(names) => format!("{names}= …"),
            None if line.starts_with('[') && !line.contains(['"', '\'']) => line.to_owned(),
            // In the middle of a text of many lines, for one.
            _ => "…".to_owned(),
        };
        Excerpt {
            caret: text.chars().count() - 1,
            width: 1,
            text,
        }
    }

    fn line_start(&self, at: usize) -> usize {
        let before = &self.text[..floor(self.text, at)];
        before.rfind('\n').map_or(0, |newline| newline + 1)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            what,
            way_out,
            excerpt,
        } = self;
        let gutter = line.to_string().len();
        writeln!(f, "{file}:{line}:{column}: {what}")?;
        writeln!(f, "  {line} | {}", excerpt.text)?;
        let (indent, mark) = (" ".repeat(excerpt.caret), "^".repeat(excerpt.width));
        writeln!(f, "  {:gutter$} | {indent}{mark}", "")?;
        write!(f, "  {way_out}")
    }
}

/// The known word that `word` was most likely meant to be.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |k: &str| strsim::jaro_winkler(&word.to_lowercase(), &k.to_lowercase());
    known
        .into_iter()
        .map(|k| (likeness(k), k))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// Whether `text` is a bare key of a length that keys of ours have.
fn is_key(text: &str) -> bool {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b' ');
    text.len() <= 24 && text.bytes().all(bare)
}

/// `at`, or the character boundary before it.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

fn paragraphs(problems: &[Problem]) -> String {
    let paragraphs: Vec<String> = problems.iter().map(Problem::to_string).collect();
    paragraphs.join("\n\n")
}
