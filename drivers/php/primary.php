<?php
// php -d sqlite3.extension_dir=$PWD primary.php 127.0.0.1:9090
$db = new SQLite3('app.db');
$db->enableExceptions(true);
$db->loadExtension('liblitestream.so');
$db->exec('PRAGMA journal_mode = WAL');
$db->exec('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)');

$serve = $db->prepare('SELECT litestream_serve(?)'); // PHP runs it in execute(), and again in fetchArray(), which does no harm
$serve->bindValue(1, $argv[1]);
echo $serve->execute()->fetchArray()[0], "\n";
$db->exec("INSERT INTO orders(item) VALUES ('lamp')");
echo $db->querySingle('SELECT litestream_position()'), "\n";
stream_get_contents(STDIN); // serves until the input ends
