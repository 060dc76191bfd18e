package version

import (
	"runtime"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	if b := Build(); !strings.HasPrefix(b, runtime.Version()+" linux/"+runtime.GOARCH) {
		t.Errorf("%q does not name Go and the machine", b)
	}
	if !strings.HasPrefix(String(), Number) {
		t.Errorf("%q does not begin with the release", String())
	}
}
