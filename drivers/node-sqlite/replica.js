const { DatabaseSync } = require('node:sqlite');

const [url, position] = process.argv.slice(2);
const db = new DatabaseSync('copy.db', { allowExtension: true });
db.loadExtension('./liblitestream.so'); // by its whole name

db.prepare('SELECT litestream_follow(?)').get(url);
console.log(db.prepare('SELECT litestream_wait(?, 10000) AS reached').get(position).reached);
console.log(db.prepare('SELECT group_concat(item) AS items FROM orders').get().items);
const { state, sqlite_version } = db.prepare('SELECT * FROM litestream_status').get();
console.log(state, sqlite_version);

process.stdin.once('data', () => { // an empty line promotes
  db.prepare('SELECT litestream_promote()').get();
  db.close();
  const writable = new DatabaseSync('copy.db'); // opened anew, to write
  writable.exec("INSERT INTO orders(item) VALUES ('chair')");
  console.log(writable.prepare('SELECT group_concat(item) AS items FROM orders').get().items);
  process.exit();
});
