#!/usr/bin/env bash
# Shows a replica following a database, with nothing but sqlite3 shells and the library: demo.sh LIBRARY
#
# Four processes, each a sqlite3 shell that stays open and is sent statements:
#   primary   has the library loaded; writes to shop.db and serves it
#   writer    plain sqlite3; writes to shop.db too
#   replica   has the library loaded; follows into copy.db
#   reader    plain sqlite3; reads copy.db
set -euo pipefail
export LC_ALL=C

library=$(realpath "${1:?which library? Say target/release/liblitestream.so}")
here=$(dirname "$(realpath "$0")")
last_order=30000 # of the seed

main() {
    echo "Four sqlite3 shells: primary and writer on shop.db, replica and reader on copy.db."
    echo "Of these, primary and replica load the library; writer and reader do not."
    primary_serves
    replica_follows
    rows_arrive 20
    no_half_transaction 5000
    writes_are_refused
    tables_tell
    both_are_equal
}

primary_serves() {
    title "A primary: a shop, in a database in WAL mode"
    sqlite3 shop.db <"$here/seed.sql" >/dev/null
    start primary shop.db
    start writer shop.db
    ask primary ".mode column"
    show primary "SELECT (SELECT count(*) FROM customers) AS customers,
               (SELECT count(*) FROM products) AS products,
               (SELECT count(*) FROM orders) AS orders,
               (SELECT count(*) FROM order_lines) AS order_lines;"
    ask primary $'.mode list\n.headers off'
    show primary ".load $library"
    show primary "SELECT litestream_serve('127.0.0.1:0');"
    url=$answer
}

replica_follows() {
    title "A replica: another process, and no file yet"
    start replica copy.db
    show replica ".load $library"
    timed show replica "SELECT litestream_follow('$url');"
    note "caught up after $(ms $took) ms, at the position above, and following from here on"
    start reader copy.db
}

# Lag: from the moment COMMIT is known to have returned in the process that wrote the row, until the reader, asked over
# and over, gets it out of the replica's file.
rows_arrive() {
    local i by row lags=()
    title "Rows arrive: written to shop.db, read from copy.db without the library"
    printf '  %-7s%-20s%-18s%7s  %-10s%10s\n' order customer product cents 'written by' lag
    for ((i = 1; i <= $1; i++)); do
        by=primary
        ((i % 2)) || by=writer
        last_order=$((last_order + 1))
        ask $by "$(order $last_order)"
        timed reader_has_order $last_order
        lags+=("$took")
        IFS='|' read -ra row <<<"$answer"
        printf '  %-7s%-20s%-18s%7s  %-10s%7s ms\n' "${row[@]}" "$by" "$(ms $took)"
        sleep 0.3
    done
    timed reader_has_order $last_order
    mapfile -t lags < <(printf '%s\n' "${lags[@]}" | sort -n)
    note "median $(ms "${lags[$1 / 2]}") ms, longest $(ms "${lags[-1]}") ms; asking the reader once takes $(ms $took) ms of it"
}

reader_has_order() {
    local tries
    for ((tries = 0; tries < 10000; tries++)); do
        ask reader "SELECT o.id, c.name, p.name, l.price FROM orders o JOIN customers c ON c.id = o.customer
            JOIN order_lines l ON l.\"order\" = o.id AND l.line = 1 JOIN products p ON p.id = l.product WHERE o.id = $1;"
        [ -z "$answer" ] || return 0
    done
    fail "order $1 never reached the replica"
}

# Order number $1, with two lines, in one transaction.
order() {
    echo "BEGIN IMMEDIATE;
INSERT INTO orders(id, customer, placed) VALUES ($1, 1 + $1 * 7919 % 5000, datetime());
INSERT INTO order_lines SELECT $1, l.value, p.id, 1, p.price
  FROM json_each('[1, 2]') l JOIN products p ON p.id = 1 + ($1 * 2 + l.value) * 7919 % 500;
COMMIT;"
}

# What is sold leaves the stock in the same transaction, so the sum below is off in any state but that after a commit.
no_half_transaction() {
    local i reads=0 wrong=0 pieces
    title "$1 transactions flat out, and a reader that looks for half of one"
    for ((i = 1; i <= $1; i++)); do order $((last_order + i)); done >burst.sql
    ask writer "PRAGMA synchronous = NORMAL;"
    pieces="SELECT (SELECT sum(stock) FROM products)
               + (SELECT sum(quantity) FROM order_lines);"
    show reader "$pieces"
    note "every transaction sells something, and this sum stays the same"
    local right=$answer

    send writer ".read burst.sql"
    timed reads_until_answered
    note "$1 commits took $(ms $took) ms; $reads reads meanwhile, $wrong of another sum"

    show primary "SELECT litestream_position();"
    timed show replica "SELECT litestream_wait('$answer');"
    note "the replica had the last of them $(ms $took) ms later"
}

reads_until_answered() {
    until has_answered writer; do
        ask reader "$pieces"
        reads=$((reads + 1))
        [ "$answer" = "$right" ] || wrong=$((wrong + 1))
    done
    receive writer
}

writes_are_refused() {
    title "A replica is read-only, with the library and without"
    show_refused replica "DELETE FROM orders;"
    show_refused reader "UPDATE products SET price = 1;"
}

tables_tell() {
    title "What the two ends say of themselves"
    ask primary ".mode line"
    show primary "SELECT * FROM litestream_replicas;"
    ask replica ".mode line"
    show replica "SELECT * FROM litestream_status;"
}

both_are_equal() {
    local sum
    title "The two files, read by plain sqlite3"
    show writer ".sha3sum"
    sum=$answer
    show reader ".sha3sum"
    [ "$answer" = "$sum" ] || fail "the replica's content differs"
    show reader "PRAGMA integrity_check;"
    note "equal; all that was started here is ended and removed, after $SECONDS s"
}

# --- sqlite3 shells that stay open ---------------------------------------------------------------------------------

declare -A to=() from=()
mark=--answered--

# Starts the shell $1 on the database $2.
start() {
    local in out
    mkfifo "$1.in" "$1.out"
    sqlite3 -batch "$2" <"$1.in" >"$1.out" 2>&1 &
    exec {in}>"$1.in" {out}<"$1.out"
    to[$1]=$in from[$1]=$out
}

# Sends $2 to shell $1 and leaves what it says in `answer`. An error ends the demo.
ask() {
    send "$1" "$2"
    receive "$1"
    ! is_error || fail "$1 said to '$2': $answer"
}

is_error() { [[ $answer =~ ^(Error|Runtime error|Parse error) ]]; }

send() { printf '%s\n.print %s\n' "$2" $mark >&"${to[$1]}"; }

receive() {
    local line
    answer=
    while IFS= read -r -t 20 line <&"${from[$1]}" || fail "$1 is gone or says nothing: $answer"; do
        [ "$line" != $mark ] || return 0
        answer+=${answer:+$'\n'}$line
    done
}

has_answered() { read -r -t 0 <&"${from[$1]}"; }

# --- what a person sees --------------------------------------------------------------------------------------------

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then bold=$'\e[1m' sql=$'\e[36m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' sql='' dim='' plain=''; fi

title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
note() { printf '  %s-- %s%s\n' "$dim" "$1" "$plain"; }

# Asks with the statement and the answer in sight.
show() {
    show_statement "$1" "$2"
    ask "$1" "$2"
    [ -z "$answer" ] || sed 's/^/  /' <<<"$answer"
}

# The same for a statement that has to fail.
show_refused() {
    show_statement "$1" "$2"
    send "$1" "$2"
    receive "$1"
    is_error || fail "$1 was to refuse '$2'"
    sed 's/^.*line [0-9]*: /  Error: /' <<<"$answer"
}

show_statement() { printf '  %s%s> %s%s\n' "$sql" "$1" "$2" "$plain"; }

# Runs a command and leaves in `took` how long it took, in microseconds.
timed() {
    local start=${EPOCHREALTIME/./}
    "$@"
    took=$((${EPOCHREALTIME/./} - start))
}

ms() { printf '%d.%d' $(($1 / 1000)) $(($1 / 100 % 10)); }

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# --- and nothing stays behind --------------------------------------------------------------------------------------

clean_up() {
    local name tries
    trap - EXIT
    for name in "${!to[@]}"; do echo .quit >&"${to[$name]}" || true; done 2>/dev/null
    for ((tries = 0; tries < 30; tries++)); do
        [ -n "$(jobs -pr)" ] || break
        sleep 0.1
    done
    kill -9 $(jobs -pr) 2>/dev/null || true
    rm -rf "$dir"
}

[ "${BASH_VERSINFO[0]}" -ge 5 ] || fail "bash 5 or newer is needed, this is $BASH_VERSION"
dir=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$dir"
main
