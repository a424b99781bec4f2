-- litestream_promote(): makes a replica writable, and a database of its own.
.load ./liblitestream
SELECT litestream_promote(); -- not a replica
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1);
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10)));
INSERT INTO t VALUES (2);
SELECT litestream_promote();

-- SQLite remembers for as long as a connection is open that the file was read-only.
.open replica.db
.load ./liblitestream
INSERT INTO t VALUES (2);
SELECT count(*) FROM t;
PRAGMA integrity_check;
SELECT litestream_pull(trim(readfile('url'), char(10))); -- it has content of its own now
