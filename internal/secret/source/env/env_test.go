package env

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
		put := func(t *testing.T, path, value string) {
			// t.Setenv only to have the variable as it was after the test.
			t.Setenv(path, value)
		}
		return sourcetest.Place{
			Source: New(slog.New(slog.DiscardHandler)), Put: put,
			Remove: func(t *testing.T, path string) { os.Unsetenv(path) },
		}
	})
}

// It warns once, and says the variable and not its value.
func TestWarning(t *testing.T) {
	var log bytes.Buffer
	s := New(slog.New(slog.NewTextHandler(&log, nil)))
	if log.Len() > 0 {
		t.Error("it warns before it is used")
	}
	t.Setenv("POSTERN_TEST_SECRET", sourcetest.Canary)
	for range 3 {
		if _, _, err := s.Fetch(t.Context(), source.Ref{Path: "POSTERN_TEST_SECRET"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "variable=POSTERN_TEST_SECRET") {
		t.Errorf("the log is %s", log.String())
	}
	if strings.Contains(log.String(), sourcetest.Canary) {
		t.Error("the secret is in the log")
	}
}
