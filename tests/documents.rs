//! What the documents show is what is run: each program in docs/drivers.md is the file of that name, and none is left out.
//! `make goldens` puts the files' text into the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A block of code that the page says is a file.
struct Shown {
    file: String,
    code: String,
    /// Where the code is in the page.
    at: std::ops::Range<usize>,
}

#[test]
fn the_programs_in_the_page_about_drivers_are_those_that_are_run() {
    let path = root().join("docs/drivers.md");
    let mut page = fs::read_to_string(&path).expect("docs/drivers.md");
    let refresh = std::env::var_os("UPDATE_GOLDENS").is_some();
    let shown = shown(&page);
    assert_eq!(names(shown.iter().map(|shown| shown.file.clone())), names(programs()), "shown, and there");
    for Shown { file, code, at } in shown.into_iter().rev() {
        let program = fs::read_to_string(root().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        if refresh {
            page.replace_range(at, &program);
        } else {
            assert_eq!(code, program, "{file}, and what docs/drivers.md shows of it; `make goldens` puts it there");
        }
    }
    if refresh {
        fs::write(&path, page).expect("writing docs/drivers.md");
    }
}

/// The blocks that follow a line with a link to a file in `drivers/`.
fn shown(page: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let (mut file, mut begun, mut at) = (None, None, 0);
    for line in page.split_inclusive('\n') {
        let fence = line.starts_with("```");
        match (begun, &file) {
            (None, Some(_)) if fence => begun = Some(at + line.len()),
            (Some(begin), Some(name)) if fence => {
                found.push(Shown { file: String::clone(name), code: page[begin..at].to_string(), at: begin..at });
                (file, begun) = (None, None);
            }
            (None, _) => file = link(line).or(file),
            _ => {}
        }
        at += line.len();
    }
    found
}

/// The program that a line has a link to.
fn link(line: &str) -> Option<String> {
    let (_, target) = line.split_once("](../drivers/")?;
    let (target, _) = target.split_once(')')?;
    Some(format!("drivers/{target}"))
}

/// All programs under `drivers/`.
fn programs() -> Vec<String> {
    let folders = fs::read_dir(root().join("drivers")).expect("the folder of the drivers");
    let folders = folders.map(|entry| entry.expect("an entry of it").path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).expect("the folder of a driver"));
    let files = files.map(|entry| entry.expect("a program").path()).filter(|path| path.is_file());
    files.map(|path| relative(&path)).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path in the repository").display().to_string()
}

/// In order, and none twice.
fn names(all: impl IntoIterator<Item = String>) -> Vec<String> {
    let all: Vec<String> = all.into_iter().collect();
    let once: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(once.len(), all.len(), "shown twice: {all:?}");
    once.into_iter().collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
