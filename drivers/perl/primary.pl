use strict;
use warnings;
use DBI;

my $db = DBI->connect('dbi:SQLite:dbname=app.db', '', '', { RaiseError => 1 });
$db->sqlite_enable_load_extension(1);
$db->sqlite_load_extension('./liblitestream');
$db->sqlite_enable_load_extension(0);
$db->do('PRAGMA journal_mode = WAL');
$db->do('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)');

$| = 1;
print $db->selectrow_array('SELECT litestream_serve(?)', {}, $ARGV[0]), "\n";
$db->do("INSERT INTO orders(item) VALUES ('lamp')");
print $db->selectrow_array('SELECT litestream_position()'), "\n";
my @ended = <STDIN>;    # serves until the input ends
