//! Blocks of code in a page of the documentation.

/// A block between two lines of backticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What stands after the first backticks, as words: the language, and who it is for.
    pub info: Vec<String>,
    /// The lines in it, each with its end.
    pub text: String,
    /// The line of the page that it begins at, from 1.
    pub line: usize,
}

/// All blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (n, line) in page.split_inclusive('\n').enumerate() {
        match (line.strip_prefix("```"), inside) {
            (Some(_), true) => inside = false,
            (Some(info), false) => {
                let info = info.split_whitespace().map(String::from).collect();
                found.push(Block { info, text: String::new(), line: n + 1 });
                inside = true;
            }
            (None, true) => found.last_mut().expect("a block that was begun").text.push_str(line),
            (None, false) => {}
        }
    }
    assert!(!inside, "the last block has an end");
    found
}

/// Whether something that was said is what is shown, where `...` in a line stands for any text, and a line of nothing else for any lines.
pub fn matches(shown: &str, said: &str) -> bool {
    fn lines(shown: &[&str], said: &[&str]) -> bool {
        match (shown, said) {
            ([], said) => said.is_empty(),
            (["...", rest @ ..], _) => (0..=said.len()).any(|skipped| lines(rest, &said[skipped..])),
            ([first, shown @ ..], [line, said @ ..]) => within_a_line(first, line) && lines(shown, said),
            ([..], []) => false,
        }
    }
    lines(&shown.lines().collect::<Vec<_>>(), &said.lines().collect::<Vec<_>>())
}

fn within_a_line(shown: &str, said: &str) -> bool {
    let Some((begin, rest)) = shown.split_once("...") else { return shown == said };
    let Some(said) = said.strip_prefix(begin) else { return false };
    let mut ends = said.char_indices().map(|(at, _)| at).chain([said.len()]);
    ends.any(|at| within_a_line(rest, &said[at..]))
}
