-- litestream_replicas: on a primary, a row for each replica that is connected.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
.once url
SELECT litestream_serve('127.0.0.1:0');
SELECT count(*) FROM litestream_replicas;

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_follow(trim(readfile('url'), char(10)));

.connection 0
.mode line
SELECT database, client, version, state,
       position = litestream_position() AS position, pages, bytes > 0 AS bytes, seconds BETWEEN 0 AND 60 AS seconds
  FROM litestream_replicas;
