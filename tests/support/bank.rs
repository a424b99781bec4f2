//! A workload whose every state can be judged: money moves between an account and a vault, which lie at the two ends of the
//! file, so its sum stays only if a transaction is there as a whole; and each transaction counts one up. Some transactions
//! change many pages.

/// How much money there is altogether.
pub const TOTAL: i64 = (ACCOUNTS + VAULTS) * 100;
const ACCOUNTS: i64 = 1000;
const VAULTS: i64 = 50;

/// SQL that makes the tables, the ballast with rows of about a page each.
pub fn create(ballast: u32, page_size: u32) -> String {
    let rows = |n: i64| {
        format!(
            "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {n}) SELECT n, 100, 'number ' || n FROM i"
        )
    };
    format!(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);
         CREATE TABLE counter(n INTEGER);
         CREATE TABLE ballast(id INTEGER PRIMARY KEY, version INTEGER, bytes BLOB);
         CREATE INDEX by_balance ON account(balance, note);
         INSERT INTO counter VALUES (0);
         INSERT INTO account {};
         WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {ballast})
         INSERT INTO ballast SELECT n, 0, randomblob({}) FROM i;
         CREATE TABLE vault(id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);
         INSERT INTO vault {};",
        rows(ACCOUNTS),
        page_size * 3 / 4,
        rows(VAULTS)
    )
}

/// SQL of one transaction: moves money, counts up, and changes about `pages` pages more. `seed` chooses who pays.
pub fn step(seed: u64, pages: u32) -> String {
    let from = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as i64;
    let (account, vault, amount) = (from % ACCOUNTS + 1, from / ACCOUNTS % VAULTS + 1, seed % 17 + 1);
    format!(
        "BEGIN IMMEDIATE;
         UPDATE account SET balance = balance - {amount} WHERE id = {account};
         UPDATE vault SET balance = balance + {amount} WHERE id = {vault};
         UPDATE ballast SET version = version + 1 WHERE id <= {pages};
         UPDATE counter SET n = n + 1;
         COMMIT;"
    )
}

/// SQL that adds what [`churn`] works on to a bank: who counted how often, and blobs with a list of what there should be.
pub const CREATE_CHURN: &str = "CREATE TABLE said(writer TEXT PRIMARY KEY, steps INTEGER);
     CREATE TABLE heap(id INTEGER PRIMARY KEY, bytes BLOB);
     CREATE TABLE inventory(rows INTEGER, bytes INTEGER);
     INSERT INTO inventory VALUES (0, 0);";

/// SQL of what can go along with a step inside one transaction, and leaves every sum right. `n` chooses.
pub fn churn(n: u64) -> String {
    let (size, table) = (n / 16 % 200_000, n / 16 % 3);
    match n % 16 {
        0..4 => format!(
            "INSERT INTO heap(bytes) VALUES (randomblob({size}));
             UPDATE inventory SET rows = rows + 1, bytes = bytes + max({size}, 1);"
        ),
        4..8 => "UPDATE inventory SET rows = rows - 1,
                     bytes = bytes - (SELECT length(bytes) FROM heap ORDER BY id LIMIT 1) WHERE rows > 0;
                 DELETE FROM heap WHERE id = (SELECT min(id) FROM heap);"
            .to_string(),
        8 => "UPDATE inventory SET rows = 0, bytes = 0; DELETE FROM heap;".to_string(),
        9 => format!("CREATE INDEX IF NOT EXISTS churn_index_{table} ON ballast(version, id);"),
        10 => format!("DROP INDEX IF EXISTS churn_index_{table};"),
        11 => format!("CREATE TABLE IF NOT EXISTS churn_{table} AS SELECT * FROM ballast LIMIT 100;"),
        12 => format!("DROP TABLE IF EXISTS churn_{table};"),
        13 => format!(
            "SAVEPOINT one; UPDATE account SET balance = balance + 1; INSERT INTO heap(bytes) VALUES (randomblob({size}));
             SAVEPOINT two; DELETE FROM ballast; ROLLBACK TO two; DELETE FROM vault; ROLLBACK TO one; RELEASE one;"
        ),
        _ => String::new(),
    }
}

/// SQL that judges a state with churn in one statement. One row: the count, the sum of all money, whether the steps of all
/// writers make the count, and whether the blobs are those of the inventory.
pub const JUDGE_CHURN: &str = "SELECT (SELECT n FROM counter),
     (SELECT sum(balance) FROM account) + (SELECT sum(balance) FROM vault),
     (SELECT coalesce(sum(steps), 0) FROM said) = (SELECT n FROM counter),
     (SELECT rows || ' ' || bytes FROM inventory) = (SELECT count(*) || ' ' || coalesce(sum(length(bytes)), 0) FROM heap)";

/// SQL that gives the sum of all money.
pub const SUM: &str = "SELECT (SELECT sum(balance) FROM account) + (SELECT sum(balance) FROM vault)";

/// SQL that judges a state in one read transaction: three rows, the count, the sum, and `ok` when `check` (such as
/// `integrity_check`) finds nothing wrong.
pub fn judge(check: &str) -> String {
    format!("BEGIN; SELECT n FROM counter; {SUM}; PRAGMA {check}; COMMIT;")
}

/// What a reader has seen so far.
#[derive(Debug, Default)]
pub struct Witness {
    /// The newest count.
    pub newest: i64,
    /// How many states differed from the one before.
    pub states: u32,
    /// How often it looked.
    pub looks: u32,
}

impl Witness {
    /// Takes in what [`judge`] gave; fails when it is wrong, or older than what was seen before.
    pub fn see(&mut self, answer: &str) {
        let mut lines = answer.lines();
        let (count, sum, check) = (lines.next(), lines.next(), lines.next());
        let count: i64 = count.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no count in: {answer}"));
        assert_eq!(sum, Some(TOTAL.to_string().as_str()), "the sum of all money at count {count}, after {self:?}");
        assert_eq!((check, lines.next()), (Some("ok"), None), "the check at count {count}, after {self:?}: {answer}");
        assert!(count >= self.newest, "count {count} after {}: time ran backwards", self.newest);
        self.states += u32::from(count > self.newest || self.looks == 0);
        self.newest = count;
        self.looks += 1;
    }
}
