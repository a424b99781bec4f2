<?php
// php -d sqlite3.extension_dir=$PWD replica.php URL POSITION
[, $url, $position] = $argv;
$db = new SQLite3('copy.db');
$db->enableExceptions(true);
$db->loadExtension('liblitestream.so');

$follow = $db->prepare('SELECT litestream_follow(?)');
$follow->bindValue(1, $url);
$follow->execute()->fetchArray();
$wait = $db->prepare('SELECT litestream_wait(?, 10000)');
$wait->bindValue(1, $position);
echo $wait->execute()->fetchArray()[0], "\n";
echo $db->querySingle('SELECT group_concat(item) FROM orders'), "\n";
echo implode(' ', $db->querySingle('SELECT state, sqlite_version FROM litestream_status', true)), "\n";

fgets(STDIN); // an empty line promotes
$db->querySingle('SELECT litestream_promote()');
$db->close();
$db = new SQLite3('copy.db'); // opened anew, to write
$db->exec("INSERT INTO orders(item) VALUES ('chair')");
echo $db->querySingle('SELECT group_concat(item) FROM orders'), "\n";
