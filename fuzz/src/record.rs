use litestream::base::{Generation, PageSize, Position};
use litestream::format::record::{self, Begin, Commit, HEADER_SIZE, Header, Pages, Type};

use crate::input::Input;
use crate::slow;

/// Reads a header and a payload of every type, and writes them again.
pub fn record(data: &[u8]) {
    written_and_read(Input(data));
    let Some((head, payload)) = data.split_at_checked(HEADER_SIZE) else {
        assert!(Header::decode(data).is_err(), "a header of {} bytes", data.len());
        return;
    };
    let at = Position { generation: Generation(1), index: 2, offset: 3 };
    if let Ok(header) = Header::decode(head) {
        assert_eq!(header.encode(), head, "a header written as it was read");
        assert!(header.kind == Type::Snapshot || header.size <= 1 << 30, "{header:?}");
        if again(&header, payload).is_some() {
            let sealed = data.split_last_chunk().is_some_and(|(all, crc)| slow::crc32(all).to_be_bytes() == *crc);
            assert!(sealed && header.size as usize == payload.len(), "a record that was not sealed");
        }
    }
    // No record that is sealed is longer.
    let short = payload.len() <= 64;
    for kind in [Type::Begin, Type::Commit, Type::Heartbeat].into_iter().filter(|_| short) {
        let header = Header::new(kind, at, payload.len() as u64);
        let mut record = [&header.encode(), payload].concat();
        slow::seal(&mut record);
        let again = again(&header, &record[HEADER_SIZE..]);
        assert!(again.is_none_or(|again| again == record), "a record written as it was read");
    }
    let mut again = Vec::new();
    let text = String::from_utf8_lossy(payload);
    record::error(at, &text, &mut again);
    let header = Header::decode(&again[..HEADER_SIZE]).expect("a header that was written");
    assert!(text.as_bytes().starts_with(&again[HEADER_SIZE..]) && std::str::from_utf8(&again[HEADER_SIZE..]).is_ok());
    assert_eq!(header.size as usize, again.len() - HEADER_SIZE);
    (9..=16).for_each(|bits| pages(payload, 1 << bits));
}

/// A record with that payload as it is written after it was read.
fn again(header: &Header, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match header.kind {
        Type::Begin => Begin::decode(header, payload).ok()?.encode(header.position, &mut out),
        Type::Commit => Commit::decode(header, payload).ok()?.encode(header.position, &mut out),
        Type::Heartbeat => {
            record::heartbeat(header.position, record::decode_heartbeat(header, payload).ok()?, &mut out);
        }
        _ => return None,
    }
    Some(out)
}

/// The pages of a record, one by one, as runs, and as the description of the format has them.
fn pages(payload: &[u8], size: usize) {
    let page_size = PageSize::new(size as u32).expect("a page size");
    let count = payload.get(..4).map_or(0, |count| slow::word(count, 0) as usize);
    let fits = count > 0 && payload.len() == 4 + count * (4 + size);
    let pages = Pages::decode(payload, page_size);
    assert_eq!(pages.is_ok(), fits, "{} bytes for {count} pages of {size}", payload.len());
    let Ok(pages) = pages else { return };
    let lock = (1 << 30) / size as u32 + 1;
    let (mut first_wrong, mut expected) = (None, Vec::new());
    for i in 0..count {
        let number = slow::word(payload, 4 + 4 * i);
        if (number == 0 || number == lock) && first_wrong.is_none() {
            first_wrong = Some(i);
        }
        expected.push((number, &payload[4 + 4 * count + i * size..][..size]));
    }
    let good = first_wrong.unwrap_or(count);
    let one_by_one: Vec<_> = pages.iter().map_while(Result::ok).map(|(pgno, image)| (pgno.get(), image)).collect();
    assert!(one_by_one == expected[..good], "one by one");
    assert_eq!(pages.iter().any(|page| page.is_err()), first_wrong.is_some());
    let mut in_runs = Vec::new();
    for (first, images) in pages.runs().map_while(Result::ok) {
        in_runs.extend(images.chunks(size).enumerate().map(|(n, image)| (first.get() + n as u32, image)));
    }
    assert!(in_runs == expected[..good], "in runs");
    assert_eq!(pages.runs().any(|run| run.is_err()), first_wrong.is_some());
}

/// Records made of numbers, written and read.
fn written_and_read(mut input: Input) {
    let sizes = [512, 1024, 4096, 65536];
    let page_size = PageSize::new(sizes[usize::from(input.byte() % 4)]).expect("a page size");
    let at = Position { generation: Generation(input.u64()), index: input.u64(), offset: input.u64() };
    let begin = Begin { page_size, everything: input.byte() & 1 == 1, pages: input.u64() };
    let commit = Commit { pages: input.u32().max(1), checksum: input.u64(), time: input.u64() as i64 };
    let mut out = Vec::new();
    begin.encode(at, &mut out);
    commit.encode(at, &mut out);
    record::heartbeat(at, commit.time, &mut out);
    let found = slow::records(&out);
    assert_eq!(found.iter().map(|record| record.kind).collect::<Vec<_>>(), [3, 5, 6]);
    assert!(found.iter().all(|record| record.at == [at.generation.0, at.index, at.offset] && record.flags == 0));
    let header =
        |i: usize| Header::new([Type::Begin, Type::Commit, Type::Heartbeat][i], at, found[i].payload.len() as u64);
    assert_eq!(Begin::decode(&header(0), found[0].payload), Ok(begin));
    assert_eq!(Commit::decode(&header(1), found[1].payload), Ok(commit));
    assert_eq!(record::decode_heartbeat(&header(2), found[2].payload), Ok(commit.time));
}
