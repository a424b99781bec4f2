-- litestream_apply_frame(pgno, commit, page): stages one frame; a commit > 0 applies all that are staged.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1);
PRAGMA wal_checkpoint(TRUNCATE);
VACUUM INTO 'unused.db';
.shell cp primary.db copy.db
INSERT INTO t VALUES (2);
INSERT INTO t VALUES (3);

-- The two transactions above, shipped by hand.
.connection 1
.open copy.db
.load ./liblitestream
SELECT count(*) FROM t;
SELECT litestream_apply_frame(pgno, "commit", page) FROM litestream_wal('primary.db-wal') WHERE valid ORDER BY frame;
SELECT sum(a) FROM t;
PRAGMA integrity_check;

-- What is staged and never committed leaves no trace.
SELECT litestream_apply_frame(2, 0, zeroblob(4096)) IS NOT NULL;
SELECT sum(a) FROM t;

SELECT litestream_apply_frame(0, 2, zeroblob(4096));
SELECT litestream_apply_frame(3, 2, zeroblob(4096));
SELECT litestream_apply_frame(2, 2, zeroblob(512));
SELECT litestream_apply_frame(262145, 300000, zeroblob(4096)); -- the lock-byte page
SELECT litestream_apply_frame(-1, 2, zeroblob(4096));
SELECT litestream_apply_frame(2, -1, zeroblob(4096));
SELECT litestream_apply_frame(4294967296, 2, zeroblob(4096));
SELECT litestream_apply_frame(NULL, 2, zeroblob(4096));
SELECT litestream_apply_frame('two', 2, zeroblob(4096));
SELECT litestream_apply_frame(2, 2, NULL);
SELECT litestream_apply_frame(2, 2, 'text');
SELECT sum(a) FROM t;
PRAGMA integrity_check;
