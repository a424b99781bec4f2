-- litestream_serve(addr [, options]): the URL under which the database is served.
.load ./liblitestream
SELECT litestream_serve('127.0.0.1:0'); -- not in WAL mode
PRAGMA journal_mode;                    -- and not changed either
PRAGMA journal_mode = WAL;
CREATE TABLE t(a);

SELECT litestream_serve('127.0.0.1:0');
SELECT litestream_serve('127.0.0.1:0'); -- twice
SELECT litestream_stop();

-- Options are a JSON object.
SELECT litestream_serve('127.0.0.1:0', '{"checkpoint_frames": 100, "wal_limit": 1000000, "heartbeat_ms": 50, "write_timeout_ms": 5000}');
SELECT litestream_stop();
ATTACH 'other one.db' AS other;
PRAGMA other.journal_mode = WAL;
SELECT litestream_serve('127.0.0.1:0', '{"schema": "other"}');
SELECT litestream_stop(); -- of main, where nothing runs
SELECT litestream_serve('127.0.0.1:0', '{"schema": "none"}');
SELECT litestream_serve('127.0.0.1:0', '{"port": 1}');
SELECT litestream_serve('127.0.0.1:0', '{"heartbeat_ms": "often"}');
SELECT litestream_serve('127.0.0.1:0', '{"heartbeat_ms": -1}');
SELECT litestream_serve('127.0.0.1:0', '[]');
SELECT litestream_serve('127.0.0.1:0', 'heartbeat_ms');
SELECT litestream_serve('127.0.0.1:0', 1);

SELECT litestream_serve(NULL);
SELECT litestream_serve(9090);
SELECT litestream_serve('');
SELECT litestream_serve('127.0.0.1');
SELECT litestream_serve('127.0.0.1:65536');

-- Two databases may share an address.
SELECT litestream_serve((SELECT substr(url, 8, instr(substr(url, 8), '/') - 1) FROM litestream_status));
SELECT count(*), count(DISTINCT substr(url, 1, instr(substr(url, 8), '/') + 7)) FROM litestream_status;

.open :memory:
.load ./liblitestream
SELECT litestream_serve('127.0.0.1:0');
.open ''
.load ./liblitestream
SELECT litestream_serve('127.0.0.1:0');
