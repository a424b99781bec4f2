package require sqlite3

sqlite3 db app.db
db enable_load_extension 1
db eval {SELECT load_extension('./liblitestream')}
db enable_load_extension 0
db eval {PRAGMA journal_mode = WAL}
db eval {CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)}

set address [lindex $argv 0]
puts [db onecolumn {SELECT litestream_serve($address)}]
db eval {INSERT INTO orders(item) VALUES ('lamp')}
puts [db onecolumn {SELECT litestream_position()}]
flush stdout
read stdin ;# serves until the input ends
