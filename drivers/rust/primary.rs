//! A primary with rusqlite.
#![allow(unsafe_code)] // to load a library is

use rusqlite::{Connection, LoadExtensionGuard, Result};

fn main() -> Result<()> {
    let address = std::env::args().nth(1);
    let db = Connection::open("app.db")?;
    // SAFETY: the library is what it says it is.
    unsafe {
        let _allowed = LoadExtensionGuard::new(&db)?;
        db.load_extension("./liblitestream", None::<&str>)?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.execute_batch("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")?;

    let url: String = db.query_row("SELECT litestream_serve(?)", [address], |row| row.get(0))?;
    db.execute("INSERT INTO orders(item) VALUES ('lamp')", [])?;
    let position: String = db.query_row("SELECT litestream_position()", [], |row| row.get(0))?;
    println!("{url}\n{position}");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // serves until the input ends
    Ok(())
}
