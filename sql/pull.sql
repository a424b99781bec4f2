-- litestream_pull(url [, options]): catches up once. Here both ends are connections of one process.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1), (2), (3);
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10))) = litestream_position();
SELECT sum(a) FROM t;
PRAGMA journal_mode;
INSERT INTO t VALUES (4); -- read-only

.connection 0
INSERT INTO t VALUES (4);
CREATE TABLE more AS SELECT value AS a FROM generate_series(1, 5000);
SELECT litestream_position() IS NOT NULL;

.connection 1
SELECT sum(a) FROM t; -- not followed, so nothing came
SELECT litestream_pull(trim(readfile('url'), char(10))) = litestream_position();
SELECT (SELECT sum(a) FROM t), (SELECT sum(a) FROM more);
PRAGMA integrity_check;

-- A writable replica.
.connection 2
.open writable.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10)), '{"writable": true}');
INSERT INTO t VALUES (5);
SELECT count(*) FROM t;

-- What has content of its own is not overwritten, unless asked for.
.connection 3
.open mine.db
.load ./liblitestream
CREATE TABLE mine(a);
SELECT litestream_pull(trim(readfile('url'), char(10)));
SELECT name FROM sqlite_schema;
SELECT litestream_pull(trim(readfile('url'), char(10)), '{"overwrite": true}');
SELECT name FROM sqlite_schema;

SELECT litestream_pull(NULL);
SELECT litestream_pull('localhost:9090/app.db');
SELECT litestream_pull('ftp://localhost/app.db');
SELECT litestream_pull('http:///app.db');
SELECT litestream_pull('http://127.0.0.1:1/app.db', '{"heartbeat_ms": 1}');
SELECT litestream_pull('http://127.0.0.1:1/app.db');
