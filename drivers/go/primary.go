package main

import (
	"database/sql"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/mattn/go-sqlite3"
)

func main() {
	sql.Register("litestream", &sqlite3.SQLiteDriver{Extensions: []string{"./liblitestream"}})
	db, err := sql.Open("litestream", "file:app.db?_journal_mode=WAL")
	check(err)
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")
	check(err)

	var url, position string
	check(db.QueryRow("SELECT litestream_serve(?)", os.Args[1]).Scan(&url))
	_, err = db.Exec("INSERT INTO orders(item) VALUES ('lamp')")
	check(err)
	check(db.QueryRow("SELECT litestream_position()").Scan(&position))
	fmt.Println(url)
	fmt.Println(position)
	io.ReadAll(os.Stdin) // serves until the input ends
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
