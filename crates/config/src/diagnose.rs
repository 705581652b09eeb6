//! Mistakes in a file: each with line, column, the line itself with a caret, what is wrong, and how to fix it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::DeTable;

/// Why a file was rejected. `Display` shows every mistake, one paragraph each.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {file}: {reason}")]
    Unreadable { file: String, reason: String },
    /// Users who must not decide about payments could have changed it.
    #[error("{0}")]
    Untrusted(String),
    #[error("{}", paragraphs(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Where and why, without quoting the file.
    pub fn place(&self) -> String {
        match self {
            Self::Unreadable { .. } | Self::Untrusted(_) => self.to_string(),
            Self::Invalid(problems) => {
                let first = problems.first();
                let place = first.map(|first| format!("{}, line {}", first.file, first.line));
                let more = match problems.len() {
                    0 | 1 => String::new(),
                    more => format!(", and {} more mistakes", more - 1),
                };
                format!("a mistake in {}{more}", place.unwrap_or_default())
            }
        }
    }
}

/// One mistake. `Display` is for people:
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

/// The source line as far as it may be shown, and which part to underline (in characters).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    caret: usize,
    width: usize,
}

/// What an excerpt may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Whole lines: the file contains no secrets.
    Open,
    /// Only names and the value that is wrong: somebody may have written a secret where its source belongs.
    Guarded,
}

/// The text of a file while it is being read; collects the problems.
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

    /// Parses the file as TOML. After a syntax error nothing more is read.
    pub fn table(&self) -> Result<Spanned<DeTable<'t>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let place = error.span().unwrap_or(0..0);
            let what = format!("not valid TOML: {}", error.message());
            let way_out = match error.message() {
                "duplicate key" if self.is_about(&place, &["[wallet.evm]", "evm"]) => {
                    "Either BKey signs or a key of your own does: keep only evm = \"bkey\" or the section [wallet.evm]."
                }
                "duplicate key" => "Each key and each [section] may appear only once: merge the two.",
                _ => "Put strings in double quotes and section names in [brackets], with one `key = value` per line.",
            };
            let shown = match self.confidence {
                Confidence::Open => self.excerpt(&place),
                Confidence::Guarded => self.nothing_but_the_key(&place),
            };
            ConfigError::Invalid(vec![self.problem(&place, shown, what, way_out.to_owned())])
        })
    }

    /// Whether the line at `place` starts with one of these.
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

    /// A problem that is not a mistake: a warning.
    pub(crate) fn describe(&self, place: &Range<usize>, what: String, way_out: String) -> Problem {
        self.problem(place, self.excerpt(place), what, way_out)
    }

    /// Like [`Document::report`], for a value that may be a secret: the excerpt stops before the value.
    pub(crate) fn report_secret(&self, place: &Range<usize>, what: String, way_out: String) {
        let problem = self.problem(place, self.nothing_but_the_key(place), what, way_out);
        self.problems.borrow_mut().push(problem);
    }

    /// Returns `read` if no problem was reported.
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
            // Before the first `=` or quote there are only names. Between there and the mistake there may be a value.
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
            // For example, in the middle of a multi-line string.
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

/// The known word that is most similar to `word`, if any is similar enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // The first measure knows longer words with several mistakes, the second one slip in a short word: `dya`.
    let likeness = |known: &str| {
        let known = known.to_lowercase();
        let alike = strsim::jaro_winkler(&word, &known);
        let is_slip = word.len() > 2 && strsim::damerau_levenshtein(&word, &known) == 1;
        if is_slip { alike.max(0.81) } else { alike }
    };
    known
        .into_iter()
        .map(|k| (likeness(k), k))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// Whether `text` is a bare key no longer than ours are.
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
