use strict;
use warnings;
use DBI;

my ($url, $position) = @ARGV;
my $db = DBI->connect('dbi:SQLite:dbname=copy.db', '', '', { RaiseError => 1 });
$db->sqlite_enable_load_extension(1);
$db->sqlite_load_extension('./liblitestream');
$db->sqlite_enable_load_extension(0);

$| = 1;
$db->selectrow_array('SELECT litestream_follow(?)', {}, $url);
print $db->selectrow_array('SELECT litestream_wait(?, 10000)', {}, $position), "\n";
print $db->selectrow_array('SELECT group_concat(item) FROM orders'), "\n";
print join(' ', $db->selectrow_array('SELECT state, sqlite_version FROM litestream_status')), "\n";

<STDIN>;                # an empty line promotes
$db->selectrow_array('SELECT litestream_promote()');
$db->disconnect;
$db = DBI->connect('dbi:SQLite:dbname=copy.db', '', '', { RaiseError => 1 });    # opened anew, to write
$db->do("INSERT INTO orders(item) VALUES ('chair')");
print $db->selectrow_array('SELECT group_concat(item) FROM orders'), "\n";
