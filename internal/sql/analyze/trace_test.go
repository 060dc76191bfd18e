package analyze

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern/postern/internal/sql"
)

// testdata/columns.txt has, below each statement, what it uses columns for:
// filters | derives | equalities | what each column of the result comes from.
// A question mark follows a column that the text does not qualify.
func TestColumns(t *testing.T) { golden(t, "testdata/columns.txt", 150, describeColumns) }

func describeColumns(line string) string {
	s, refused := analyzed(line)
	if s == nil {
		return refused
	}
	var filters, derives, equal []string
	for _, u := range s.Uses {
		if u.Purpose == sql.Filters {
			filters = append(filters, column(u.Column))
		} else {
			derives = append(derives, column(u.Column))
		}
	}
	for _, q := range s.Equalities {
		verb := "="
		if q.Assigns {
			verb = ":="
		}
		value := fmt.Sprintf("$%d", q.Param)
		if q.Literal > 0 {
			value = fmt.Sprintf("#%d", q.Literal)
		}
		if q.Place > 0 {
			q.Column.Name = fmt.Sprintf("[%d]", q.Place)
		}
		equal = append(equal, column(q.Column)+verb+value)
	}
	out := "?"
	if s.Outputs != nil {
		out = ""
		for _, o := range s.Outputs {
			var from []string
			for _, c := range o.From {
				from = append(from, column(c))
			}
			out += "(" + strings.Join(from, " ") + ")"
		}
	}
	return fmt.Sprintf("%s | %s | %s | %s", strings.Join(filters, " "), strings.Join(derives, " "), strings.Join(equal, " "), out)
}

func column(c sql.Column) string {
	s := c.Table.String() + "." + c.Name
	if !c.Sure {
		s += "?"
	}
	return s
}
