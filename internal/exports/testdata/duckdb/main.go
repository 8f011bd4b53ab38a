// Command duckdb has DuckDB answer a query, and prints the rows as CSV with a head:
// what the test of exports reads them with where no duckdb is on PATH. It is a module of
// its own, so that kith's has no part of it.
package main

import (
	"database/sql"
	"encoding/csv"
	"errors"
	"fmt"
	"os"

	_ "github.com/duckdb/duckdb-go/v2"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: duckdb QUERY")
		os.Exit(2)
	}
	if err := answer(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "duckdb:", err)
		os.Exit(1)
	}
}

func answer(query string) (err error) {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query(query)
	if err != nil {
		return err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	out := csv.NewWriter(os.Stdout)
	if err := out.Write(names); err != nil {
		return err
	}
	fields := make([]string, len(names))
	values, to := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		for i, v := range values {
			fields[i] = ""
			if v != nil {
				fields[i] = fmt.Sprint(v)
			}
		}
		if err := out.Write(fields); err != nil {
			return err
		}
	}
	out.Flush()
	return errors.Join(rows.Err(), out.Error())
}
