//! Every property over its seeds, over every input that ever broke one, and over a fixed number of changed seeds. No
//! fuzzer is needed, and every run does the same.

use std::panic::catch_unwind;

use bursar_fuzz::{TARGETS, Target, regressions};

/// How many changed seeds each property sees.
const CHANGED: usize = 2000;

#[test]
fn every_property_holds_for_its_seeds() {
    all_hold(|target| {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 1, "{} has too few seeds", target.name);
        let seeds = seeds.into_iter().map(|seed| ("a seed".to_owned(), seed));
        seeds.chain([("nothing".to_owned(), Vec::new())]).collect()
    });
}

#[test]
fn what_broke_a_property_once_does_not_break_it_again() {
    all_hold(|target| {
        let inputs = regressions(target.name).into_iter();
        inputs
            .map(|(path, input)| (path.display().to_string(), input))
            .collect()
    });
}

#[test]
fn every_property_holds_for_changed_seeds() {
    all_hold(|target| {
        let (seeds, mut random) = ((target.seeds)(), Random(target.name.len() as u64));
        let changed = (0..CHANGED).map(|_| changed(&seeds, &mut random));
        changed.map(|input| ("a changed seed".to_owned(), input)).collect()
    });
}

#[test]
fn each_target_has_a_program_and_an_explanation() {
    let manifest = include_str!("../Cargo.toml");
    let readme = include_str!("../README.md");
    for target in TARGETS {
        let name = target.name;
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name} is not in Cargo.toml"
        );
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in README.md");
        let file = format!("{}/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let program = std::fs::read_to_string(file).unwrap();
        assert_eq!(
            program.matches(&format!("\"{name}\"")).count(),
            2,
            "{name}.rs runs another target"
        );
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// Every target is tried; each that is broken is named with its first such input.
fn all_hold(inputs: impl Fn(&Target) -> Vec<(String, Vec<u8>)>) {
    let mut broken = Vec::new();
    for target in TARGETS {
        let first = inputs(target)
            .into_iter()
            .find(|(_, input)| catch_unwind(|| (target.check)(input)).is_err());
        if let Some((what, input)) = first {
            broken.push(format!(
                "{}: by {what}: {:?}",
                target.name,
                String::from_utf8_lossy(&input)
            ));
        }
    }
    assert!(broken.is_empty(), "broken:\n{}", broken.join("\n"));
}

/// One seed with up to four changes: bytes flipped, cut, repeated, put in, or taken from another seed.
fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "\"", "\\", ",", "null", "{}", "[]", "-1", "0x", "\u{202e}", "\n", "1e999", "\u{0}",
    ];
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let until = (at + random.below(16)).min(input.len());
        match random.below(6) {
            0 => input
                .get_mut(at)
                .into_iter()
                .for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => drop(input.drain(at..until)),
            2 => {
                let part = input[at..until].to_vec();
                drop(input.splice(at..at, part));
            }
            3 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                drop(input.splice(at..until, other[from..].iter().copied().take(64)));
            }
            _ => input.truncate(at),
        }
    }
    input
}

/// xorshift64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        self.0 ^= self.0 >> 29;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}
