package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"log"
	"os"

	"github.com/mattn/go-sqlite3"
)

func main() {
	sql.Register("litestream", &sqlite3.SQLiteDriver{Extensions: []string{"./liblitestream"}})
	db, err := sql.Open("litestream", "copy.db")
	check(err)

	var reached int
	var position, items, state, version string
	check(db.QueryRow("SELECT litestream_follow(?)", os.Args[1]).Scan(&position))
	check(db.QueryRow("SELECT litestream_wait(?, 10000)", os.Args[2]).Scan(&reached))
	check(db.QueryRow("SELECT group_concat(item) FROM orders").Scan(&items))
	check(db.QueryRow("SELECT state, sqlite_version FROM litestream_status").Scan(&state, &version))
	fmt.Println(reached)
	fmt.Println(items)
	fmt.Println(state, version)

	bufio.NewReader(os.Stdin).ReadString('\n') // an empty line promotes
	check(db.QueryRow("SELECT litestream_promote()").Scan(&position))
	check(db.Close())
	db, err = sql.Open("litestream", "copy.db") // the whole pool opened anew, to write
	check(err)
	_, err = db.Exec("INSERT INTO orders(item) VALUES ('chair')")
	check(err)
	check(db.QueryRow("SELECT group_concat(item) FROM orders").Scan(&items))
	fmt.Println(items)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
