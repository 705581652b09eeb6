//! The code of each question: random, and committed to in the ledger before anyone is asked (R96).

use std::sync::Arc;

use bursar_core::approval::Code;
use bursar_core::clock;
use bursar_ledger::disclosure::Disclosure;

const CODE: usize = 5;
const SALT: usize = 16;

/// Where codes and the salts of their commitments come from. Tests pass in their own bytes.
#[derive(Clone)]
pub struct Randomness(Arc<Draw>);

type Draw = dyn Fn() -> Option<[u8; CODE + SALT]> + Send + Sync;

/// The code of a question to one approver.
#[derive(Clone)]
pub(super) struct DrawnCode {
    pub code: Code,
    /// What opens the commitment in `approval.requested`. Missing for a question that an older version asked.
    pub disclosure: Option<Disclosure>,
}

impl Randomness {
    /// The operating system's generator.
    pub fn of_system() -> Self {
        Self::of(|| clock::random().ok())
    }

    pub fn of(draw: impl Fn() -> Option<[u8; CODE + SALT]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(draw))
    }

    /// `None` if the generator fails: nobody is asked then, because a code that can be guessed proves nothing.
    pub(super) fn code(&self, approver: &str) -> Option<DrawnCode> {
        let drawn = (self.0)()?;
        let (bits, salt) = (drawn.first_chunk::<CODE>()?, drawn.last_chunk::<SALT>()?);
        let code = Code::of(*bits);
        Some(DrawnCode {
            code,
            disclosure: Some(Disclosure::new(*salt, &name(approver), code.as_str())),
        })
    }
}

/// Whether `disclosure` opens to this approver's code.
pub(crate) fn opens_to(disclosure: &Disclosure, approver: &str, code: &str) -> bool {
    disclosure
        .open()
        .is_some_and(|(named, value)| named == name(approver) && value == code)
}

/// The name in the commitment, so that two approvers' codes cannot be swapped.
fn name(approver: &str) -> String {
    format!("code of {approver}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_salt_are_the_drawn_bytes() {
        let drawn = Randomness::of(|| Some(std::array::from_fn(|at| u8::try_from(at).unwrap())));
        let DrawnCode { code, disclosure } = drawn.code("finance").unwrap();
        assert_eq!(code, Code::of([0, 1, 2, 3, 4]));
        let salt = std::array::from_fn(|at| u8::try_from(at + CODE).unwrap());
        let disclosure = disclosure.unwrap();
        assert_eq!(disclosure, Disclosure::new(salt, "code of finance", code.as_str()));
        assert!(opens_to(&disclosure, "finance", code.as_str()));
        assert!(!opens_to(&disclosure, "someone", code.as_str()));
        assert!(!opens_to(&disclosure, "finance", "00000000"));
        assert!(!format!("{disclosure:?}").contains(code.as_str()));
    }

    #[test]
    fn without_random_bytes_there_is_no_code() {
        assert!(Randomness::of(|| None).code("finance").is_none());
    }

    #[test]
    fn codes_of_the_system_differ() {
        let random = Randomness::of_system();
        let codes: std::collections::HashSet<String> = (0..1000)
            .map(|_| random.code("finance").unwrap().code.to_string())
            .collect();
        // Among a thousand of 2^40 codes two are equal once in two million runs.
        assert_eq!(codes.len(), 1000);
    }
}
