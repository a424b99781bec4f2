-- A shop: 5,000 customers, 500 products, 30,000 orders and 75,000 order lines, some 110,000 rows in all.
-- The same rows every time: what looks like chance is a hash of the row number.
PRAGMA journal_mode = WAL;
BEGIN;

CREATE TABLE customers(
  id     INTEGER PRIMARY KEY,
  name   TEXT NOT NULL,
  email  TEXT NOT NULL UNIQUE,
  city   TEXT NOT NULL,
  joined TEXT NOT NULL
);
CREATE TABLE products(
  id    INTEGER PRIMARY KEY,
  name  TEXT NOT NULL UNIQUE,
  price INTEGER NOT NULL CHECK (price > 0), -- cents
  stock INTEGER NOT NULL
);
CREATE TABLE orders(
  id       INTEGER PRIMARY KEY,
  customer INTEGER NOT NULL REFERENCES customers,
  placed   TEXT NOT NULL,
  status   TEXT NOT NULL DEFAULT 'open'
);
CREATE TABLE order_lines(
  "order"  INTEGER NOT NULL REFERENCES orders,
  line     INTEGER NOT NULL,
  product  INTEGER NOT NULL REFERENCES products,
  quantity INTEGER NOT NULL CHECK (quantity > 0),
  price    INTEGER NOT NULL, -- cents, of one piece, on the day
  PRIMARY KEY ("order", line)
) WITHOUT ROWID;

CREATE INDEX customers_by_city ON customers(city, name);
CREATE INDEX orders_by_customer ON orders(customer, placed);
CREATE INDEX orders_by_status ON orders(status, placed);
CREATE INDEX order_lines_by_product ON order_lines(product);

-- What is sold leaves the stock in the same transaction: sum(stock) + sum(quantity) is the same after every commit.
CREATE TRIGGER sold AFTER INSERT ON order_lines BEGIN
  UPDATE products SET stock = stock - new.quantity WHERE id = new.product;
END;

CREATE TEMP TABLE words(kind, n, word);
INSERT INTO words
  SELECT 'first', key, value FROM json_each('["Ada","Alan","Barbara","Claude","Donald","Edsger","Frances","Grace","Hedy","John","Katherine","Leslie","Margaret","Niklaus","Radia","Tony"]')
  UNION ALL
  SELECT 'last', key, value FROM json_each('["Allen","Backus","Dijkstra","Goldberg","Hamilton","Hoare","Hopper","Johnson","Knuth","Lamarr","Lamport","Liskov","Lovelace","Perlman","Shannon","Turing","Wirth"]')
  UNION ALL
  SELECT 'city', key, value FROM json_each('["Athens","Bergen","Cork","Delft","Essen","Faro","Ghent","Haarlem","Izmir","Jena","Krakow","Lyon","Malmo"]')
  UNION ALL
  SELECT 'trait', key, value FROM json_each('["Blue","Bright","Foldable","Green","Heavy","Light","Plain","Red","Round","Small","Square","Sturdy","Tall","Thin","Warm","White","Wide","Woollen","Yellow","Zinc"]')
  UNION ALL
  SELECT 'thing', key, value FROM json_each('["basket","bench","blanket","bottle","bowl","brush","bucket","chair","clock","coat","cup","desk","jug","kettle","knife","lamp","mirror","pan","pot","rug","shelf","spoon","stool","table","vase"]');

INSERT INTO customers
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
  SELECT i, f.word || ' ' || l.word, lower(f.word || '.' || l.word) || i || '@example.com', c.word,
         date('2020-01-01', (i * 7919 % 1900) || ' days')
    FROM n
    JOIN words f ON f.kind = 'first' AND f.n = i * 2654435761 % 4294967296 >> 28
    JOIN words l ON l.kind = 'last' AND l.n = i * 2654435761 % 4294967296 % 17
    JOIN words c ON c.kind = 'city' AND c.n = i * 40503 % 65536 % 13;

INSERT INTO products
  SELECT 1 + t.n * 25 + o.n, t.word || ' ' || o.word, 199 + (t.n * 31 + o.n * 57) % 97 * 50, 1000000
    FROM words t JOIN words o ON t.kind = 'trait' AND o.kind = 'thing';

INSERT INTO orders
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
  SELECT i, 1 + i * 2654435761 % 4294967296 % 5000, datetime('2025-01-01', (i * 17) || ' minutes'),
         iif(i < 28000, 'shipped', 'open')
    FROM n;

-- One to four lines an order.
INSERT INTO order_lines
  SELECT o.id, l.value, p.id, 1 + (o.id + l.value) * 40503 % 65536 % 5, p.price
    FROM orders o
    JOIN json_each('[1,2,3,4]') l ON l.value <= 1 + o.id % 4
    JOIN products p ON p.id = 1 + (o.id * 4 + l.value) * 2654435761 % 4294967296 % 500;

DROP TABLE words;
COMMIT;
