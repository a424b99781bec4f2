-- litestream_checksum(): what all pages of a database sum up to; the same on both ends.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
SELECT length(litestream_checksum()), litestream_checksum() = litestream_checksum();
.once url
SELECT litestream_serve('127.0.0.1:0');
.once before
SELECT litestream_checksum();
INSERT INTO t VALUES (1);
SELECT litestream_checksum() <> trim(readfile('before'), char(10)); -- every commit changes it
.once now
SELECT litestream_checksum();

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10))) IS NOT NULL;
SELECT litestream_checksum() = trim(readfile('now'), char(10)); -- the read-only mark does not count

.connection 2
.open :memory:
.load ./liblitestream
SELECT litestream_checksum();
