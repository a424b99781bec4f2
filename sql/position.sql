-- litestream_position(): where the database stands; the same text on both ends.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
SELECT litestream_position() IS NULL; -- neither served nor a replica
.once url
SELECT litestream_serve('127.0.0.1:0');

-- generation/index:offset. The two frames of CREATE TABLE are 32 + 2 * (24 + 4096) bytes of WAL.
SELECT substr(litestream_position(), 17);
SELECT litestream_position();
INSERT INTO t VALUES (1);
SELECT substr(litestream_position(), 17); -- one frame more, right after the commit

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10))) = litestream_position();
SELECT substr(litestream_position(), 17);
