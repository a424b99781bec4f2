<?php
// php -d sqlite3.extension_dir=$PWD primary.php 127.0.0.1:9090
$db = new PDO('sqlite:app.db');
$db->exec('PRAGMA journal_mode = WAL');
$db->exec('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)');

$litestream = new SQLite3('app.db'); // PDO cannot load extensions: this connection does it
$litestream->enableExceptions(true);
$litestream->loadExtension('liblitestream.so');
$address = SQLite3::escapeString($argv[1]);
echo $litestream->querySingle("SELECT litestream_serve('$address')"), "\n";
$db->exec("INSERT INTO orders(item) VALUES ('lamp')");
echo $litestream->querySingle('SELECT litestream_position()'), "\n";
stream_get_contents(STDIN); // serves until the input ends
