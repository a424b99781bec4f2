use litestream::base::Position;
use litestream::net::fuzzing;
use litestream::primary::Version;

use crate::input::Input;

/// Reads the address and the headers of a request. What is understood is what stands there.
pub fn query(data: &[u8]) {
    let mut input = Input(data);
    let Some(query) = input.text() else { return };
    let mut headers = Vec::new();
    for name in ["litestream-stream-version", "litestream-compression"] {
        if input.byte() & 1 == 1 {
            let size = usize::from(input.byte());
            headers.push((name, input.bytes(size)));
        }
    }
    let Some(asked) = fuzzing::asked(&format!("/stream?{query}"), &headers) else { return };
    match asked {
        Err(refused) => assert!(refused.len() < 300 && !refused.contains(['\n', '\r']), "{refused}"),
        Ok((path, ask)) => {
            assert!(path.is_none_or(|path| !path.is_empty()));
            assert!(ask.version == Version::V2 || ask.compression.name() == "none");
            assert_eq!(ask.generation.is_some(), ask.index.is_some());
            assert!(ask.offset.is_none() || ask.generation.is_some());
            if let ((Some(generation), Some(index)), offset) = ((ask.generation, ask.index), ask.offset) {
                let position = Position { generation, index, offset: offset.unwrap_or(0) };
                assert!(index >> 63 == 0 && position.offset >> 63 == 0);
                let (path, again) = fuzzing::asked(
                    &format!("/stream?generation={generation}&index={index:016x}&offset={:016x}", position.offset),
                    &headers,
                )
                .and_then(Result::ok)
                .expect("a position that was read");
                assert_eq!((path, again.generation, again.index), (None, ask.generation, ask.index));
            }
        }
    }
}
