-- litestream_status: a row for each database of this process that is served or followed.
.load ./liblitestream
SELECT count(*) FROM litestream_status;
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_follow(trim(readfile('url'), char(10)));

.mode line
SELECT database, role, state, reason, url,
       position, lag, replicas, reconnects, last_error, wal_bytes, sqlite_version = sqlite_version() AS sqlite_version
  FROM litestream_status WHERE role = 'primary';
SELECT database, role, state, reason, url,
       position, typeof(lag) AS lag, replicas, commits, pages, bytes > 0 AS bytes, reconnects, last_error,
       sqlite_version = sqlite_version() AS sqlite_version
  FROM litestream_status WHERE role = 'replica';

DELETE FROM litestream_status;
