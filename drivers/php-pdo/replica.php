<?php
// php -d sqlite3.extension_dir=$PWD replica.php URL POSITION
[, $url, $position] = array_map('SQLite3::escapeString', $argv);
$litestream = new SQLite3('copy.db'); // PDO cannot load extensions: this connection does it
$litestream->enableExceptions(true);
$litestream->loadExtension('liblitestream.so');
$litestream->querySingle("SELECT litestream_follow('$url')");
echo $litestream->querySingle("SELECT litestream_wait('$position', 10000)"), "\n";

$db = new PDO('sqlite:copy.db');
echo $db->query('SELECT group_concat(item) FROM orders')->fetchColumn(), "\n";
echo implode(' ', $litestream->querySingle('SELECT state, sqlite_version FROM litestream_status', true)), "\n";

fgets(STDIN); // an empty line promotes
$litestream->querySingle('SELECT litestream_promote()');
$db = new PDO('sqlite:copy.db'); // opened anew, to write
$db->exec("INSERT INTO orders(item) VALUES ('chair')");
echo $db->query('SELECT group_concat(item) FROM orders')->fetchColumn(), "\n";
