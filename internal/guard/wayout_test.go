package guard

import "testing"

// TestCapabilities: what is warned of is what sends whole frames, and what is
// not understood is no reason to warn.
func TestCapabilities(t *testing.T) {
	for _, c := range []struct{ status, want string }{
		{"Name:\tsh\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n", "NET_RAW"}, // docker's default
		{"CapBnd:\t000001ffffffffff\n", "NET_ADMIN,NET_RAW"},
		{"CapBnd:\t00000000800405fb\n", ""}, // podman's default
		{"CapEff:\t00000000a80425fb\nCapBnd:\t0000000000000000\n", ""},
		{"CapBnd:\tzz\n", ""},
		{"", ""},
	} {
		if got := capabilities(c.status); got != c.want {
			t.Errorf("%q: %q, want %q", c.status, got, c.want)
		}
	}
}
