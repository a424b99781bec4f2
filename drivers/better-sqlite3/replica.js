const Database = require('better-sqlite3');

const [url, position] = process.argv.slice(2);
const db = new Database('copy.db');
db.loadExtension('./liblitestream');

db.prepare('SELECT litestream_follow(?)').get(url);
console.log(db.prepare('SELECT litestream_wait(?, 10000)').pluck().get(position));
console.log(db.prepare('SELECT group_concat(item) FROM orders').pluck().get());
const { state, sqlite_version } = db.prepare('SELECT * FROM litestream_status').get();
console.log(state, sqlite_version);

process.stdin.once('data', () => { // an empty line promotes
  db.prepare('SELECT litestream_promote()').get();
  db.close();
  const writable = new Database('copy.db'); // opened anew, to write
  writable.prepare("INSERT INTO orders(item) VALUES ('chair')").run();
  console.log(writable.prepare('SELECT group_concat(item) FROM orders').pluck().get());
  process.exit();
});
