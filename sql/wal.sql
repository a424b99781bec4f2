-- litestream_wal(path): the frames of a WAL file.
.load ./liblitestream
PRAGMA journal_mode = WAL;
PRAGMA page_size;
CREATE TABLE t(a);
INSERT INTO t VALUES (randomblob(5000));
SELECT frame, pgno, "commit", valid, length(page) FROM litestream_wal('primary.db-wal');
SELECT count(DISTINCT salt1), count(DISTINCT salt2), count(DISTINCT checksum1) FROM litestream_wal('primary.db-wal');
SELECT frame, pgno FROM litestream_wal WHERE path = 'primary.db-wal' AND pgno = 2;

-- Frames that are left from before a restart of the WAL are not valid.
PRAGMA wal_checkpoint(RESTART);
INSERT INTO t VALUES (1);
SELECT frame, valid FROM litestream_wal('primary.db-wal');

SELECT count(*) FROM litestream_wal('primary.db');
SELECT count(*) FROM litestream_wal('nothing.db-wal');
SELECT count(*) FROM litestream_wal(NULL);
SELECT count(*) FROM litestream_wal;
