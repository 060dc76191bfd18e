package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	pgquery "github.com/pganalyze/pg_query_go/v6"
	"github.com/xwb1989/sqlparser"

	"github.com/postern/postern/internal/sql"
)

// statements are such as applications send, and such as both grammars read.
var statements = []string{
	"SELECT id, name, email FROM customers WHERE id = %d",
	"SELECT o.id, o.state, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id > %d AND o.state = 'new' ORDER BY o.id LIMIT 20",
	"INSERT INTO scratch (id, note) VALUES (%d, 'a note of some length')",
	"UPDATE orders SET state = 'sent' WHERE id = %d",
	"DELETE FROM scratch WHERE id = %d",
	"SELECT state, count(*), max(id) FROM orders WHERE customer = %d GROUP BY state HAVING count(*) > 1",
	"SELECT id FROM orders WHERE customer IN (SELECT id FROM customers WHERE name LIKE 'A%%') AND id < %d",
	"SELECT a.id, b.note FROM scratch a LEFT JOIN scratch b ON a.id = b.id WHERE a.id BETWEEN 1 AND %d",
}

// texts is how many there are of the repeated ones.
const texts = 4096

// repeated is the i-th statement with a number of its own: the same shape.
func repeated(i int) string { return fmt.Sprintf(statements[i%len(statements)], i%1_000_000) }

// unseen is the i-th statement with a name of its own in it: no cache has it.
func unseen(i int) string { return repeated(i) + fmt.Sprintf(" /* %d */", i) }

func classifier(ctx context.Context, worker string) (*sql.Classifier, chan struct{}, error) {
	worker, err := filepath.Abs(worker)
	if err != nil {
		return nil, nil, err
	}
	c, err := sql.New(sql.Options{Path: worker, Workers: 1})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: run `make build` first", err)
	}
	ended := make(chan struct{})
	go func() { // ends with ctx
		c.Run(ctx) //nolint:errcheck // it returns none
		close(ended)
	}()
	for i := range texts { // with a LIMIT numbers matter, and each text is known by itself
		if _, err := c.Classify(ctx, repeated(i)); err != nil {
			return nil, nil, err
		}
	}
	return c, ended, nil
}

var errNotKnown = errors.New("a statement was not answered from the cache")

func statementRows(ctx context.Context, c *sql.Classifier) []row {
	texts := make([]string, texts) // made before, so that making them is not measured
	for i := range texts {
		texts[i] = repeated(i)
	}
	known := func(i, n int) error {
		for k := range n {
			if _, ok := c.Known(texts[(i+k)%len(texts)]); !ok {
				return errNotKnown
			}
		}
		return nil
	}
	first := func(i, n int) error {
		for k := range n {
			if _, err := c.Classify(ctx, unseen(i+k)); err != nil {
				return err
			}
		}
		return nil
	}
	peers := func(text func(int) string) []way {
		return []way{
			{"pg_query_go", func(i, n int) error {
				for k := range n {
					if _, err := pgquery.Parse(text(i + k)); err != nil {
						return err
					}
				}
				return nil
			}},
			{"sqlparser", func(i, n int) error {
				for k := range n {
					if _, err := sqlparser.Parse(text(i + k)); err != nil {
						return err
					}
				}
				return nil
			}},
		}
	}
	made := func(i int) string { return texts[i%len(texts)] }
	return []row{
		{"cached", 2 * time.Microsecond, append([]way{{"postern", known}}, peers(made)...)},
		{"first", 150 * time.Microsecond, append([]way{{"postern", first}}, peers(unseen)...)},
	}
}
