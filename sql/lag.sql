-- litestream_lag(): seconds since the replica was known to equal its primary.
.load ./liblitestream
SELECT litestream_lag() IS NULL; -- not a replica
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
.once url
SELECT litestream_serve('127.0.0.1:0');
SELECT litestream_lag() IS NULL; -- a primary

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_follow(trim(readfile('url'), char(10)));
SELECT typeof(litestream_lag()), litestream_lag() BETWEEN 0 AND 60;
SELECT litestream_stop();
SELECT litestream_lag() IS NULL; -- not followed
