'use strict';

const fs = require('node:fs');
const path = require('node:path');

const LIBRARIES = path.join(__dirname, 'lib');

/** The path of the extension, for `loadExtension` of better-sqlite3 and of node:sqlite. */
function getLoadablePath() {
  const platform = `${process.platform}-${process.arch}`;
  const file = process.platform === 'darwin' ? 'liblitestream.dylib' : 'liblitestream.so';
  const library = path.join(LIBRARIES, platform, file);
  if (!fs.existsSync(library)) {
    const known = fs.readdirSync(LIBRARIES).join(', ');
    throw new Error(`litestream-sqlite: no library for ${platform} in this package, only for ${known}; build it from source`);
  }
  return library;
}

/** Loads the extension into a database of better-sqlite3 or node:sqlite. */
function load(db) {
  db.loadExtension(getLoadablePath());
}

module.exports = { getLoadablePath, load };
