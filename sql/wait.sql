-- litestream_wait(position [, timeout_ms]): 1 when the replica is there, 0 when it did not get there in time.
.load ./liblitestream
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);
.once url
SELECT litestream_serve('127.0.0.1:0');

.connection 1
.open replica.db
.load ./liblitestream
SELECT litestream_follow(trim(readfile('url'), char(10)));
SELECT litestream_wait(litestream_position());
SELECT litestream_wait(litestream_position(), 0);
SELECT litestream_wait(substr(litestream_position(), 1, 34) || '0000ffffffffffff', 1); -- not there for a while
SELECT litestream_wait('0123456789abcdef/0000000000000000:0000000000000000'); -- of another generation
SELECT litestream_wait('yesterday');
SELECT litestream_wait(NULL);
SELECT litestream_wait(litestream_position(), -1);
SELECT litestream_wait(litestream_position(), 'long');

.connection 2
.open neither.db
.load ./liblitestream
SELECT litestream_wait('0123456789abcdef/0000000000000000:0000000000000000');
