require 'sqlite3'

db = SQLite3::Database.new('app.db')
db.enable_load_extension(true)
db.load_extension('./liblitestream')
db.enable_load_extension(false)
db.execute('PRAGMA journal_mode = WAL')
db.execute('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)')

puts db.get_first_value('SELECT litestream_serve(?)', ARGV[0])
db.execute("INSERT INTO orders(item) VALUES ('lamp')")
puts db.get_first_value('SELECT litestream_position()')
$stdout.flush
$stdin.read # serves until the input ends
