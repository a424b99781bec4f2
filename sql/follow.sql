-- litestream_follow(url [, options]): catches up, then goes on in the background.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1);
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_follow(trim(readfile('url'), char(10))) = litestream_position();
SELECT sum(a) FROM t;
SELECT litestream_follow(trim(readfile('url'), char(10))); -- twice

.connection 0
INSERT INTO t VALUES (2);
.once position
SELECT litestream_position();

.connection 1
SELECT litestream_wait(trim(readfile('position'), char(10)));
SELECT sum(a) FROM t;
SELECT state, reason FROM litestream_status WHERE role = 'replica';

SELECT litestream_stop();
SELECT litestream_stop();
SELECT count(*) FROM litestream_status WHERE role = 'replica';
.connection 0
INSERT INTO t VALUES (4);
.connection 1
SELECT sum(a) FROM t;

-- It can go on.
SELECT litestream_follow(trim(readfile('url'), char(10)));
SELECT sum(a) FROM t;

.connection 2
.open other.db
.load ./liblitestream
SELECT litestream_follow('http://127.0.0.1:1/app.db', '{"overwrite": 1}');
SELECT litestream_follow('http://127.0.0.1:1/app.db', '{"timeout_ms": 0}');
SELECT litestream_follow(1);
