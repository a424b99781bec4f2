use litestream::base::{Generation, PageSize, Position};
use litestream::net::{Url, fuzzing};
use litestream::replica::{Have, PageSums};

use crate::input::Input;

const SECRET: &str = "s3cr3t-Pa55";

/// Reads a URL. What is let through can be asked for, and the server reads what was meant; no password is ever shown.
pub fn url(data: &[u8]) {
    let mut input = Input(data);
    let position = Position { generation: Generation(input.u64()), index: input.u64() >> 1, offset: input.u64() >> 1 };
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    if !text.contains(SECRET) {
        for login in [format!("://ann:{SECRET}@"), format!("://{SECRET}@")] {
            let shown = match Url::parse(&text.replacen("://", &login, 1)) {
                Ok(url) => format!("{url} {url:?} {}", url.base()),
                Err(error) => error.to_string(),
            };
            assert!(!text.contains("://") || !shown.contains(SECRET), "{shown}");
        }
    }
    percent(text);
    let Ok(url) = Url::parse(text) else { return };
    let again = Url::parse(&url.to_string()).expect("a URL that was shown");
    assert_eq!((again.to_string(), again.database()), (url.to_string(), url.database()));
    assert!(url.to_string().starts_with(&url.base()) && url.is_loopback() == again.is_loopback());
    let page_size = PageSize::new(4096).expect("a page size");
    let sums = PageSums { page_size, sums: Vec::new() };
    for have in [Have::Nothing, Have::Position(position), Have::Pages(sums)] {
        let request = fuzzing::request(&url, &have);
        let asked = fuzzing::asked(&request, &[]).unwrap_or_else(|| panic!("{text} leads to {request}, no URI"));
        let (path, ask) = asked.unwrap_or_else(|refused| panic!("{request} is refused: {refused}"));
        assert_eq!(path.as_deref(), url.database(), "{request}");
        let expected = match have {
            Have::Position(position) => Some((position.generation, position.index, position.offset)),
            _ => None,
        };
        assert_eq!(ask.generation.zip(ask.index).zip(ask.offset).map(|((g, i), o)| (g, i, o)), expected, "{request}");
    }
}

fn percent(text: &str) {
    let encoded = fuzzing::encode(text);
    assert!(encoded.is_ascii());
    let decoded = fuzzing::decode(&encoded);
    assert_eq!(decoded.ok().as_deref(), (!text.chars().any(char::is_control)).then_some(text), "{encoded}");
    drop(fuzzing::decode(text));
    drop(fuzzing::split_address(text));
}
