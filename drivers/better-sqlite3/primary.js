const Database = require('better-sqlite3');

const db = new Database('app.db');
db.loadExtension('./liblitestream');
db.pragma('journal_mode = WAL');
db.exec('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)');

console.log(db.prepare('SELECT litestream_serve(?)').pluck().get(process.argv[2]));
db.prepare("INSERT INTO orders(item) VALUES ('lamp')").run();
console.log(db.prepare('SELECT litestream_position()').pluck().get());
process.stdin.resume(); // serves until the input ends
