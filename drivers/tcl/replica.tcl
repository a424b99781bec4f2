package require sqlite3

lassign $argv url position
sqlite3 db copy.db
db enable_load_extension 1
db eval {SELECT load_extension('./liblitestream')}
db enable_load_extension 0

db eval {SELECT litestream_follow($url)}
puts [db onecolumn {SELECT litestream_wait($position, 10000)}]
puts [db onecolumn {SELECT group_concat(item) FROM orders}]
puts [db eval {SELECT state, sqlite_version FROM litestream_status}]
flush stdout

gets stdin ;# an empty line promotes
db eval {SELECT litestream_promote()}
db close
sqlite3 db copy.db ;# opened anew, to write
db eval {INSERT INTO orders(item) VALUES ('chair')}
puts [db onecolumn {SELECT group_concat(item) FROM orders}]
