-- litestream_apply_wal(blob): the commits of a WAL, raw or in an LZ4 frame.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
PRAGMA wal_checkpoint(TRUNCATE);
.shell cp primary.db copy.db
INSERT INTO t VALUES (1);
INSERT INTO t VALUES (2);
INSERT INTO t VALUES (4);

.connection 1
.open copy.db
.load ./liblitestream
SELECT litestream_apply_wal(readfile('primary.db-wal'));
SELECT sum(a) FROM t;
PRAGMA integrity_check;

SELECT litestream_apply_wal(substr(readfile('primary.db-wal'), 1, 32)); -- a header alone
SELECT litestream_apply_wal(x'');
SELECT litestream_apply_wal(x'00');
SELECT litestream_apply_wal(x'04224d18');
SELECT litestream_apply_wal('text');
SELECT litestream_apply_wal(NULL);
SELECT litestream_apply_wal(zeroblob(4152));
SELECT sum(a) FROM t;
