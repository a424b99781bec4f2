-- litestream_verify([url]): compares every page with the upstream's.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1), (2), (3);
SELECT litestream_verify();
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_pull(trim(readfile('url'), char(10))) IS NOT NULL;
SELECT json_remove(litestream_verify(), '$.position');

-- Pages that changed there since cannot be compared.
.connection 0
INSERT INTO t VALUES (4);
.connection 1
SELECT json_remove(litestream_verify(), '$.position');

-- Any database can be compared, here one that is no copy at all.
.connection 2
.open other.db
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE other(a);
SELECT litestream_verify(trim(readfile('url'), char(10)));
SELECT litestream_verify('http://127.0.0.1:1/app.db');
SELECT litestream_verify(1);
