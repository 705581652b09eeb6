//! Keys and values of the index, as bytes.

use super::*;

pub(super) fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind], rest].concat()
}

pub(super) fn counter_key(scope: &str, window: &str, start: &str) -> Vec<u8> {
    key(COUNTER, [scope, window, start].join("\0").as_bytes())
}

pub(super) fn counter_row(key: &[u8], value: &[u8]) -> Option<(CounterKey, Counter)> {
    let mut parts = std::str::from_utf8(&key[1..]).ok()?.splitn(3, '\0').map(str::to_owned);
    let key = (parts.next()?, parts.next()?, parts.next()?);
    let (settled, open) = value.split_at_checked(16)?;
    let number = |bytes: &[u8]| Some(u128::from_be_bytes(bytes.try_into().ok()?));
    Some((
        key,
        Counter {
            settled: number(settled)?,
            open: number(open)?,
        },
    ))
}

pub(super) fn bucket_key(scope: &str, span: Span) -> Vec<u8> {
    match span {
        Span::Ever => key(EVER, scope.as_bytes()),
        Span::Quarter(Quarter(quarter)) => key(BUCKET, &[&quarter.to_be_bytes()[..], scope.as_bytes()].concat()),
    }
}

/// Micro-USD settled and open, payments settled and open.
pub(super) fn bucket_value(Bucket { usd, payments }: Bucket) -> [u8; 64] {
    let mut value = [0; 64];
    let numbers = [usd.settled, usd.open, payments.settled, payments.open];
    for (place, number) in value.chunks_exact_mut(16).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    value
}

pub(super) fn bucket_row(key: &[u8], value: &[u8]) -> Option<(String, Span, Bucket)> {
    let (span, scope) = match key.split_first()? {
        (&EVER, scope) => (Span::Ever, scope),
        (_, rest) => {
            let (quarter, scope) = rest.split_first_chunk()?;
            (Span::Quarter(Quarter(u32::from_be_bytes(*quarter))), scope)
        }
    };
    let (numbers, []) = value.as_chunks::<16>() else {
        return None;
    };
    let [usd, usd_open, payments, payments_open] = numbers else {
        return None;
    };
    let counter = |settled: &[u8; 16], open: &[u8; 16]| Counter {
        settled: u128::from_be_bytes(*settled),
        open: u128::from_be_bytes(*open),
    };
    let bucket = Bucket {
        usd: counter(usd, usd_open),
        payments: counter(payments, payments_open),
    };
    Some((std::str::from_utf8(scope).ok()?.to_owned(), span, bucket))
}

/// Sixteen bytes each: segment and offset.
pub(super) fn places_value(places: &[Place]) -> Vec<u8> {
    let numbers = places.iter().flat_map(|place| [place.segment, place.offset]);
    numbers.flat_map(u64::to_be_bytes).collect()
}

pub(super) fn places_row(value: &[u8]) -> Option<Vec<Place>> {
    let (places, []) = value.as_chunks::<16>() else {
        return None;
    };
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    let place = |place: &[u8; 16]| {
        Some(Place {
            segment: number(&place[..8])?,
            offset: number(&place[8..])?,
        })
    };
    places.iter().map(place).collect()
}

pub(super) fn segment_row(key: &[u8], value: &[u8]) -> Option<(u64, u64)> {
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((number(&key[1..])?, number(value)?))
}

pub(super) fn nonce_key(free_at: u64, nonce: &NonceKey) -> Vec<u8> {
    key(NONCE, &[&free_at.to_be_bytes()[..], &nonce.0].concat())
}

pub(super) fn nonce_row(key: &[u8]) -> Option<(u64, NonceKey)> {
    let (free_at, nonce) = key[1..].split_at_checked(8)?;
    Some((
        u64::from_be_bytes(free_at.try_into().ok()?),
        NonceKey(nonce.try_into().ok()?),
    ))
}

pub(super) fn replay_key(replay: &ReplayKey) -> Vec<u8> {
    key(REPLAY, replay)
}

pub(super) fn denial_key(Subject { agent, intent }: &Subject) -> Vec<u8> {
    key(DENIAL, &[&intent[..], agent.as_bytes()].concat())
}

pub(super) fn subject_row(key: &[u8]) -> Option<Subject> {
    let (intent, agent) = key[1..].split_at_checked(32)?;
    Some(Subject {
        agent: std::str::from_utf8(agent).ok()?.to_owned(),
        intent: intent.try_into().ok()?,
    })
}

/// Microseconds, the precision of an entry.
pub(super) fn moment_value(moment: Moment) -> [u8; 8] {
    moment.timestamp().as_microsecond().to_be_bytes()
}

pub(super) fn moment_row(value: &[u8]) -> Option<Moment> {
    let micros = i64::from_be_bytes(value.try_into().ok()?);
    Timestamp::from_microsecond(micros).ok().map(Moment::of)
}
