//! A replica with rusqlite.
#![allow(unsafe_code)] // to load a library is

use rusqlite::{Connection, LoadExtensionGuard, Result};

fn main() -> Result<()> {
    let (url, position) = (std::env::args().nth(1), std::env::args().nth(2));
    let db = Connection::open("copy.db")?;
    // SAFETY: the library is what it says it is.
    unsafe {
        let _allowed = LoadExtensionGuard::new(&db)?;
        db.load_extension("./liblitestream", None::<&str>)?;
    }

    db.query_row("SELECT litestream_follow(?)", [url], |_| Ok(()))?;
    let reached: bool = db.query_row("SELECT litestream_wait(?, 10000)", [position], |row| row.get(0))?;
    let items: String = db.query_row("SELECT group_concat(item) FROM orders", [], |row| row.get(0))?;
    let status: String =
        db.query_row("SELECT state || ' ' || sqlite_version FROM litestream_status", [], |row| row.get(0))?;
    println!("{}\n{items}\n{status}", u8::from(reached));

    let _ = std::io::stdin().read_line(&mut String::new()); // an empty line promotes
    db.query_row("SELECT litestream_promote()", [], |_| Ok(()))?;
    drop(db);
    let db = Connection::open("copy.db")?; // opened anew, to write
    db.execute("INSERT INTO orders(item) VALUES ('chair')", [])?;
    let items: String = db.query_row("SELECT group_concat(item) FROM orders", [], |row| row.get(0))?;
    println!("{items}");
    Ok(())
}
