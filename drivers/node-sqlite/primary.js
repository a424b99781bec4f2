const { DatabaseSync } = require('node:sqlite');

const db = new DatabaseSync('app.db', { allowExtension: true });
db.loadExtension('./liblitestream.so'); // by its whole name
db.exec('PRAGMA journal_mode = WAL');
db.exec('CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)');

console.log(db.prepare('SELECT litestream_serve(?) AS url').get(process.argv[2]).url);
db.exec("INSERT INTO orders(item) VALUES ('lamp')");
console.log(db.prepare('SELECT litestream_position() AS position').get().position);
process.stdin.resume(); // serves until the input ends
