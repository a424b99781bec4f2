-- All that loading the library adds. SQLITE_DIRECTONLY is 0x80000: not to be called from a schema.
.load ./liblitestream
SELECT name, narg, flags & 0x80000 <> 0 AS directonly FROM pragma_function_list
  WHERE name LIKE 'litestream%' ORDER BY name, narg;
SELECT name FROM pragma_module_list WHERE name LIKE 'litestream%' ORDER BY name;
SELECT m.name AS "table", t.name AS "column", t.hidden <> 0 AS hidden
  FROM pragma_module_list m JOIN pragma_table_xinfo(m.name) t WHERE m.name LIKE 'litestream%' ORDER BY m.name, t.cid;

-- A second load in the same connection changes nothing.
.load ./liblitestream
SELECT count(*) FROM pragma_module_list WHERE name LIKE 'litestream%';

-- What has side effects cannot be hidden in a schema.
CREATE VIEW trap AS SELECT litestream_stop();
SELECT * FROM trap;
