/** The path of the extension, for `loadExtension` of better-sqlite3 and of node:sqlite. */
export declare function getLoadablePath(): string;

/** Loads the extension into a database of better-sqlite3 or node:sqlite. */
export declare function load(db: { loadExtension(file: string): unknown }): void;
