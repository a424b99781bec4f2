//! Holds the house in order: what no compiler checks, read from the sources themselves.
//!
//! Each rule is a function from text to complaints, and is itself tried on text that breaks it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// The layers of `src/`, lowest first. A module imports from its own folder and from lower ranks, nothing else.
const LAYERS: [(&str, u32); 8] = [
    ("base", 0),
    ("format", 1),
    ("sqlite", 2),
    ("store", 3),
    ("primary", 4),
    ("replica", 4), // never sideways: the two ends know each other by the wire alone
    ("net", 5),
    ("ext", 6),
];

/// Longest file, in lines without its tests: past that it holds more than one concept.
const FILE_LINES: usize = 500;
/// Longest function, in lines from its `fn` to its closing brace: about a screen.
const FUNCTION_LINES: usize = 70;

/// What ends the process, or stands for code that is not there, and so has no place outside tests.
const FORBIDDEN_CALLS: [&str; 8] =
    [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "dbg!", "println!", "process::exit"];

#[test]
fn imports_point_down_the_layers() -> io::Result<()> {
    let complaints = for_each_source("src", |path, code| match layer_of(path) {
        Some(layer) => wrong_imports(layer, code),
        None => Vec::new(),
    })?;
    none_of(complaints)
}

#[test]
fn every_folder_of_src_is_a_layer() -> io::Result<()> {
    let known: BTreeSet<&str> = LAYERS.map(|(name, _)| name).into();
    for entry in fs::read_dir(root().join("src"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(name == "lib.rs" || known.contains(name.as_str()), "src/{name} is neither lib.rs nor a known layer");
    }
    Ok(())
}

#[test]
fn every_source_file_is_part_of_a_crate() -> io::Result<()> {
    let mut reached = BTreeSet::new();
    for crate_root in crate_roots()? {
        reach(&crate_root, true, &mut reached)?;
    }
    let all: BTreeSet<PathBuf> = repository_files()?.into_iter().filter(|p| has_extension(p, "rs")).collect();
    let dead: Vec<_> = all.difference(&reached).collect();
    assert!(dead.is_empty(), "no mod declares {dead:?}");
    Ok(())
}

#[test]
fn unsafe_is_confined_to_the_layer_of_sqlite_and_the_entry_point() -> io::Result<()> {
    let complaints = for_each_source("src", |path, code| {
        if path == Path::new("src/lib.rs") || layer_of(path) == Some("sqlite") { Vec::new() } else { unsafe_code(code) }
    })?;
    none_of(complaints)
}

#[test]
fn nothing_outside_tests_can_panic_by_a_call_or_write_to_the_hosts_output() -> io::Result<()> {
    none_of(for_each_source("src", |_, code| forbidden_calls(&without_excused(&without_tests(code))))?)
}

#[test]
fn files_and_functions_stay_readable() -> io::Result<()> {
    let complaints = for_each_source("src", |_, code| {
        let code = without_tests(code);
        let lines = code.trim_end().lines().count();
        let mut found = long_functions(&code);
        if lines > FILE_LINES {
            found.push((1, format!("{lines} lines without tests, at most {FILE_LINES}")));
        }
        found
    })?;
    none_of(complaints)
}

#[test]
fn no_file_mentions_a_place_that_only_one_machine_has() -> io::Result<()> {
    let mut complaints = Vec::new();
    for path in repository_files()? {
        if let Ok(text) = fs::read_to_string(root().join(&path)) {
            complaints.extend(outside_paths(&text).into_iter().map(|(line, what)| told(&path, line, &what)));
        }
    }
    none_of(complaints)
}

#[test]
fn links_between_documents_lead_somewhere() -> io::Result<()> {
    let mut complaints = Vec::new();
    for path in repository_files()?.into_iter().filter(|p| has_extension(p, "md")) {
        let text = fs::read_to_string(root().join(&path))?;
        let folder = root().join(&path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (line, link) in relative_links(&text) {
            if !folder.join(&link).exists() {
                complaints.push(told(&path, line, &format!("link to {link}, which is not there")));
            }
        }
    }
    none_of(complaints)
}

#[test]
fn files_that_git_does_not_know_are_left_aside() -> io::Result<()> {
    let folder = std::env::temp_dir().join(format!("litestream-tidy-{}", std::process::id()));
    fs::create_dir_all(folder.join("venv/lib"))?;
    for name in ["known.rs", "unknown.rs", "venv/lib/unknown.md"] {
        fs::write(folder.join(name), "")?;
    }
    git(&folder, &["init", "--quiet"])?;
    git(&folder, &["add", "known.rs"])?;
    let files = tracked_files(&folder);
    fs::remove_dir_all(&folder)?;
    assert_eq!(files?, [PathBuf::from("known.rs")]);
    Ok(())
}

#[test]
fn each_rule_sees_what_breaks_it() {
    let wrong = |layer, code: &str| !wrong_imports(layer, &bare(code)).is_empty();
    assert!(wrong("format", "use crate::store::Wal;"));
    assert!(wrong("base", "use crate::{format::wal, base::Pgno};"));
    assert!(wrong("primary", "fn f() { crate::replica::apply() }"));
    assert!(wrong("sqlite", "use super::super::ext;"));
    assert!(wrong("net", "use litestream::base;"));
    assert!(!wrong("net", "use crate::{\n    base::Error,\n    primary::{Feed, replica},\n}; // crate::ext"));
    assert!(!wrong("base", "const S: &str = \"crate::ext\"; /* crate::ext /* crate::ext */ */"));

    assert_eq!(unsafe_code("fn f() {}\nunsafe { g() }").len(), 1);
    assert_eq!(unsafe_code(&bare("#![allow(unsafe_code)] // unsafe")).len(), 1);
    assert_eq!(unsafe_code(&bare("let unsafely = \"unsafe\"; // unsafe")), []);

    let guarded = "fn f() { g()?; }\n#[cfg(test)]\nmod tests {\n fn t() { g().unwrap(); }\n}\n";
    assert_eq!(forbidden_calls(&without_tests(guarded)), []);
    assert_eq!(forbidden_calls(&without_tests(&format!("{guarded}fn h() {{ g().unwrap(); }}"))).len(), 1);
    let excused = "#[expect(clippy::expect_used, reason = \"\")]\nfn f() { g().expect(\"\"); }";
    assert_eq!(forbidden_calls(&without_excused(excused)), []);
    assert_eq!(forbidden_calls(&without_excused(&format!("{excused} fn h() {{ g().expect(\"\"); }}"))).len(), 1);
    assert_eq!(forbidden_calls("g().unwrap_or(0); #[expect(dead_code)] assert_panic!();"), []);

    let body = "\n    g();".repeat(FUNCTION_LINES);
    assert_eq!(long_functions(&format!("impl T {{\nfn short() {{}}\nfn long(x: [u8; 4]) {{{body}\n}}\n}}")).len(), 1);
    assert_eq!(long_functions("trait T { fn f(); }\nfn g() {\n}\n"), []);

    assert_eq!(outside_paths(&format!("a\nsee {}", OUTSIDE[0])), [(2, OUTSIDE[0].to_string())]);
    assert_eq!(relative_links("[a](b.md#c) [d](https://e.f) [g](#h)"), [(1, "b.md".to_string())]);

    assert_eq!(bare(r##"'a' '\'' '"' b'{' &'static "}\"" r#"x"y"#;"##), format!("{:18}&'static{:15};", "", ""));
    assert_eq!(modules("pub mod a;\nmod b { mod c {} }\npub(crate) mod d;"), ["a", "d"]);
}

// --- the rules -----------------------------------------------------------------------------------------------------

/// A line number, from 1, and what is wrong there.
type Complaint = (usize, String);

fn wrong_imports(layer: &str, code: &str) -> Vec<Complaint> {
    let rank = rank_of(layer);
    let mut found = Vec::new();
    for (line, target) in imported_layers(code) {
        let fine = target == layer || (target != "litestream" && rank_of(&target) < rank);
        if !fine {
            found.push((line, format!("{layer} imports {target}")));
        }
    }
    found
}

/// What stands after each `crate::`, and layers reached through two or more `super::`.
fn imported_layers(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        found.extend(heads(&code[at + "crate::".len()..]).into_iter().map(|name| (line_of(code, at), name)));
    }
    for (at, _) in code.match_indices("super::super::") {
        let rest = code[at..].trim_start_matches("super::");
        let layers = heads(rest).into_iter().filter(|name| LAYERS.iter().any(|(layer, _)| layer == name));
        found.extend(layers.map(|name| (line_of(code, at), name)));
    }
    for (at, _) in code.match_indices("litestream::").filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        found.push((line_of(code, at), "litestream".to_string()));
    }
    found
}

/// The first names of a path, or of each path in a group: `a` of `a::b`, `a` and `c` of `{a::b, c}`.
fn heads(path: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut names = vec![word(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn unsafe_code(code: &str) -> Vec<Complaint> {
    words(code)
        .filter(|(_, word)| matches!(*word, "unsafe" | "unsafe_code"))
        .map(|(at, word)| (line_of(code, at), format!("{word} outside src/sqlite and src/lib.rs")))
        .collect()
}

fn forbidden_calls(code: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    for call in FORBIDDEN_CALLS {
        let part_of_a_name = |at: usize| !call.starts_with('.') && code[..at].ends_with(is_word);
        let places = code.match_indices(call).filter(|(at, _)| !part_of_a_name(*at));
        found.extend(places.map(|(at, _)| (line_of(code, at), call.to_string())));
    }
    found
}

fn long_functions(code: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
        let Some(open) = body_of_item(code, at) else { continue };
        let lines = code[at..end_of_block(code, open)].lines().count();
        if lines > FUNCTION_LINES {
            found.push((line_of(code, at), format!("a function of {lines} lines, at most {FUNCTION_LINES}")));
        }
    }
    found
}

/// Written in two halves, or this file would be the first to break the rule.
const OUTSIDE: [&str; 4] =
    [concat!("../", "shared"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];

fn outside_paths(text: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        found.extend(OUTSIDE.iter().filter(|path| line.contains(*path)).map(|path| (n + 1, path.to_string())));
    }
    found
}

/// Targets of Markdown links to files, without their fragments.
fn relative_links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                found.push((n + 1, target.to_string()));
            }
        }
    }
    found
}

// --- reading Rust, as far as the rules need it ---------------------------------------------------------------------

/// The code with comments, strings and character literals turned into spaces; line breaks stay.
fn bare(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = inert_length(rest, out.chars().next_back());
        let (taken, after) = rest.split_at(if length == 0 { c.len_utf8() } else { length });
        if length == 0 {
            out.push(c);
        } else {
            out.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// How many bytes at the start of `text` are a comment or a literal; 0 if none.
fn inert_length(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if !before.is_some_and(is_word) {
        let unprefixed = text.trim_start_matches(['b', 'c']);
        let prefix = text.len() - unprefixed.len();
        if let Some(raw) = unprefixed.strip_prefix('r').filter(|_| prefix <= 1) {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let close = format!("\"{}", "#".repeat(hashes));
                let body = &raw[hashes + 1..];
                let length = body.find(&close).map_or(body.len(), |n| n + close.len());
                return prefix + 1 + hashes + 1 + length;
            }
        }
        if prefix <= 1 && (unprefixed.starts_with('"') || (prefix == 1 && unprefixed.starts_with('\''))) {
            return prefix + quoted_length(unprefixed);
        }
    }
    let is_char = text.starts_with("'\\") || (text.starts_with('\'') && text.chars().nth(2) == Some('\''));
    if text.starts_with('"') || is_char { quoted_length(text) } else { 0 }
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let step = match rest.get(..2) {
            Some("/*") => {
                depth += 1;
                2
            }
            Some("*/") => {
                depth -= 1;
                2
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the literal at the start of `text`, up to and with the quote it began with.
fn quoted_length(text: &str) -> usize {
    let mut chars = text.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    let mut escaped = false;
    for (at, c) in chars {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if Some(c) == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn without_tests(code: &str) -> String {
    without_blocks(code, "#[cfg(test)]")
}

/// Without the functions that say why their `expect` cannot fail.
fn without_excused(code: &str) -> String {
    without_blocks(code, "#[expect(clippy::expect_used, reason")
}

/// The code with what stands under the attribute turned into empty lines.
fn without_blocks(code: &str, attribute: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(attribute) {
        let item = at + attribute.len();
        let end = match body_of_item(rest, item) {
            Some(open) => end_of_block(rest, open),
            None => rest[item..].find(';').map_or(rest.len(), |n| item + n + 1),
        };
        out.push_str(&rest[..at]);
        out.extend(rest[at..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Where the braces of the item at `at` open; none if it ends with a semicolon first. Those of array types do not count.
fn body_of_item(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (n, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' => return Some(at + n),
            ';' if depth <= 0 => return None,
            _ => {}
        }
    }
    None
}

/// Just after the brace that closes the one at `open`.
fn end_of_block(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Names of the modules that are declared and live in files of their own.
fn modules(code: &str) -> Vec<String> {
    let all: Vec<(usize, &str)> = words(code).collect();
    let declared = all.windows(2).filter(|pair| pair[0].1 == "mod").map(|pair| pair[1]);
    declared.filter(|(at, name)| code[at + name.len()..].starts_with(';')).map(|(_, name)| name.to_string()).collect()
}

/// Identifiers and keywords with where they start.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

// --- the repository ------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What git tracks, relative to the root; outside a clone, every file of the source package.
/// Untracked files, such as those of a virtual environment, are not the project's.
fn repository_files() -> io::Result<Vec<PathBuf>> {
    if root().join(".git").exists() {
        return tracked_files(root());
    }
    let mut found = Vec::new();
    walk(Path::new(""), &mut found)?;
    Ok(found)
}

fn tracked_files(repository: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = git(repository, &["ls-files", "-z", "--cached"])?;
    let files = listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|path| repository.join(path).is_file()).collect())
}

/// What git prints. A clone may belong to another user than the one who tests it.
fn git(repository: &Path, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(repository)
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("git, which lists the files to look at: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("git {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() && !matches!(path.to_str(), Some("target" | ".git")) => walk(&path, found)?,
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// The files that crates start from: the library, and every test, benchmark, example and fuzz target.
fn crate_roots() -> io::Result<Vec<PathBuf>> {
    let folders = ["tests", "benches", "drivers/rust", "fuzz/fuzz_targets"];
    Ok(repository_files()?
        .into_iter()
        .filter(|path| {
            let folder = path.parent().and_then(Path::to_str).unwrap_or_default();
            // The unit tests take in the model by its path.
            let libraries = ["src/lib.rs", "fuzz/src/lib.rs", "tests/model/mod.rs"].map(Path::new);
            libraries.contains(&path.as_path()) || has_extension(path, "rs") && folders.contains(&folder)
        })
        .collect())
}

/// Adds `file` and all that its `mod` declarations lead to.
fn reach(file: &Path, is_crate_root: bool, reached: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    reached.insert(file.to_path_buf());
    let mut children = file.with_extension("");
    if is_crate_root || file.ends_with("mod.rs") {
        children.pop();
    }
    for name in modules(&bare(&fs::read_to_string(root().join(file))?)) {
        let places = [children.join(format!("{name}.rs")), children.join(&name).join("mod.rs")];
        for place in places.iter().filter(|place| root().join(place).is_file()) {
            reach(place, false, reached)?;
        }
    }
    Ok(())
}

/// Puts every source file under `folder` before `rule`, bare of comments and literals.
fn for_each_source(folder: &str, rule: impl Fn(&Path, &str) -> Vec<Complaint>) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    for path in repository_files()?.into_iter().filter(|p| p.starts_with(folder) && has_extension(p, "rs")) {
        let code = bare(&fs::read_to_string(root().join(&path))?);
        complaints.extend(rule(&path, &code).into_iter().map(|(line, what)| told(&path, line, &what)));
    }
    Ok(complaints)
}

/// The layer that a file of `src/` belongs to; none for `src/lib.rs`, which stands above all.
fn layer_of(path: &Path) -> Option<&str> {
    path.strip_prefix("src").ok()?.parent()?.components().next()?.as_os_str().to_str()
}

fn rank_of(layer: &str) -> u32 {
    LAYERS.iter().find(|(name, _)| *name == layer).map_or(u32::MAX, |(_, rank)| *rank)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

fn told(path: &Path, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", path.display())
}

fn none_of(complaints: Vec<String>) -> io::Result<()> {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}
