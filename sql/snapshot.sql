-- litestream_snapshot(file [, options]): writes what the database holds to a file of its own.
.load ./liblitestream
CREATE TABLE t(a);
SELECT litestream_snapshot('copy.db');
PRAGMA journal_mode = WAL;
INSERT INTO t VALUES (1);
SELECT litestream_snapshot('copy.db') IS NULL AS "no position";
SELECT litestream_snapshot('copy.db');
SELECT litestream_serve('127.0.0.1:0');
INSERT INTO t VALUES (2);
SELECT litestream_snapshot('copy.db', '{"overwrite": true}') = litestream_position() AS position;

.connection 1
.open copy.db
SELECT count(*) FROM t;
PRAGMA integrity_check;
.connection 0

SELECT litestream_snapshot('copy.db-wal', '{"overwrite": 1}');
SELECT litestream_snapshot('primary.db', '{"overwrite": true}');
SELECT litestream_snapshot(NULL);
SELECT litestream_snapshot('other.db', '{"compress": true}');
SELECT litestream_snapshot('nowhere/copy.db');
