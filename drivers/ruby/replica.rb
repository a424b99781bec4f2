require 'sqlite3'

url, position = ARGV
db = SQLite3::Database.new('copy.db')
db.enable_load_extension(true)
db.load_extension('./liblitestream')
db.enable_load_extension(false)

db.execute('SELECT litestream_follow(?)', url)
puts db.get_first_value('SELECT litestream_wait(?, 10000)', position)
puts db.get_first_value('SELECT group_concat(item) FROM orders')
puts db.get_first_row('SELECT state, sqlite_version FROM litestream_status').join(' ')
$stdout.flush

$stdin.gets # an empty line promotes
db.execute('SELECT litestream_promote()')
db.close
db = SQLite3::Database.new('copy.db') # opened anew, to write
db.execute("INSERT INTO orders(item) VALUES ('chair')")
puts db.get_first_value('SELECT group_concat(item) FROM orders')
