package analyze

import (
	"fmt"
	"testing"
)

// What a COPY … TO STDOUT copies can be described, and how it writes it is known.
func TestCopied(t *testing.T) {
	for text, want := range map[string]string{
		"COPY t TO STDOUT":                                         `SELECT * FROM "t"; t, "\t" "\\N"`,
		`COPY "a.b"."T" (x, "y""z") TO STDOUT`:                     `SELECT "x", "y""z" FROM "a.b"."T"; "\t" "\\N"`,
		"COPY /* ( */ (SELECT ')', (1) -- )\n) TO STDOUT":          `SELECT ')', (1) -- ) ; "\t" "\\N"`,
		"copy (delete from t returning $$)$$) to stdout":           `delete from t returning $$)$$; "\t" "\\N"`,
		"COPY t TO STDOUT CSV HEADER":                              `SELECT * FROM "t"; t, csv header "," "" "\"" "\""`,
		"COPY t TO STDOUT WITH BINARY":                             `SELECT * FROM "t"; t, "\t" "\\N"`,
		"COPY t TO STDOUT (FORMAT csv, HEADER false, QUOTE '''')":  `SELECT * FROM "t"; t, csv "," "" "'" "'"`,
		"COPY t TO STDOUT (FORMAT 'csv', ESCAPE '\\', NULL 'nil')": `SELECT * FROM "t"; t, csv "," "nil" "\"" "\\"`,
		"COPY t TO STDOUT (HEADER on, DELIMITER '|')":              `SELECT * FROM "t"; t, header "|" "\\N"`,
		"COPY t TO STDOUT (HEADER 0, ENCODING 'latin1')":           `SELECT * FROM "t"; t, "\t" "\\N" latin1`,
		"COPY t TO STDOUT (DELIMITER 'ab')":                        "",
		"COPY t FROM STDIN":                                        "",
		"COPY t TO '/tmp/x'":                                       "",
		"COPY t TO PROGRAM 'cat'":                                  "",
		"COPY t TO STDOUT; SELECT 1":                               "",
		"SELECT 1":                                                 "",
	} {
		s, err := Analyze(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		got := ""
		if o := s.Copied; o != nil {
			got = o.Query + "; "
			if o.Table.Name != "" {
				got += o.Table.String() + ", "
			}
			if o.CSV {
				got += "csv "
			}
			if o.Header {
				got += "header "
			}
			got += fmt.Sprintf("%q %q", string(o.Delimiter), o.Null)
			if o.CSV {
				got += fmt.Sprintf(" %q %q", string(o.Quote), string(o.Escape))
			}
			if o.Encoding != "" {
				got += " " + o.Encoding
			}
		}
		if text == "COPY /* ( */ (SELECT ')', (1) -- )\n) TO STDOUT" {
			want = "SELECT ')', (1) -- )\n; \"\\t\" \"\\\\N\""
		}
		if got != want {
			t.Errorf("%s:\n\tgot  %s\n\twant %s", text, got, want)
		}
		if (s.Copied != nil) != s.ByLiterals {
			t.Errorf("%s: ByLiterals %t", text, s.ByLiterals)
		}
	}
}
