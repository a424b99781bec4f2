-- litestream_stop(): ends serving and following this database.
.load ./liblitestream
SELECT litestream_stop() IS NULL;
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
SELECT litestream_serve('127.0.0.1:0');
SELECT litestream_stop();
SELECT litestream_stop() IS NULL;
SELECT count(*) FROM litestream_status;
INSERT INTO t VALUES (1);

-- And it can be served again.
SELECT litestream_serve('127.0.0.1:0');
SELECT role, state FROM litestream_status;
