'use strict';

const path = require('node:path');

const SUFFIX = { linux: 'so', darwin: 'dylib' };

/** The path of the extension, for `loadExtension` of better-sqlite3 and of node:sqlite. */
function getLoadablePath() {
  const suffix = SUFFIX[process.platform];
  if (!suffix) {
    throw new Error(`litestream-sqlite: no library for ${process.platform}, only for ${Object.keys(SUFFIX).join(' and ')}`);
  }
  return path.join(__dirname, `liblitestream.${suffix}`);
}

/** Loads the extension into a database of better-sqlite3 or node:sqlite. */
function load(db) {
  db.loadExtension(getLoadablePath());
}

module.exports = { getLoadablePath, load };
