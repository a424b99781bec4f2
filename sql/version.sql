-- litestream_version: three numbers.
.load ./liblitestream
SELECT litestream_version() GLOB '[0-9]*.[0-9]*.[0-9]*';
