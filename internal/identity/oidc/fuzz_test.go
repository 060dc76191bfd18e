package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret"
)

// FuzzClaims: whatever the provider signs, an identity is what another parser
// reads in it too, has not ended, and is safe to show.
func FuzzClaims(f *testing.F) {
	f.Add(text(claims(nil)))
	f.Add(text(claims(map[string]any{"aud": []string{"postern", "x"}, "azp": "postern", "groups": "one", "email": nil})))
	f.Add(text(claims(map[string]any{"_claim_names": map[string]any{"groups": "s"}, "nbf": 1.5, "email_verified": false})))
	f.Add(`{"iss":"` + testURL + `","aud":"postern","sub":"a","SUB":"b","exp":1.8000001e9}`)
	i := newIDP()
	p, err := New(Options{
		Issuers: []Issuer{{Name: "corp", URL: testURL, ClientID: "postern", Algorithms: []string{"ES256"}}}, StateDir: f.TempDir(),
		Key: bytes.Repeat([]byte{7}, keyLength), HTTP: &http.Client{Transport: i}, Now: func() time.Time { return start },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		raw := signText(`{"alg":"ES256","kid":"ec"}`, payload, ecKey())
		got, err := p.Verify(context.Background(), secret.New([]byte(raw)))
		if err != nil {
			if text(got) != text(Identity{}) {
				t.Error("an identity comes with an error")
			}
			return
		}
		var read map[string]any
		if err := json.Unmarshal([]byte(payload), &read); err != nil {
			t.Fatalf("accepted what encoding/json does not read: %v", err)
		}
		if read["iss"] != testURL || read["sub"] != got.Subject {
			t.Errorf("%q is taken for %s", payload, text(got))
		}
		exp, _ := read["exp"].(float64)
		if got.Expires.Unix() != int64(exp) || !got.Expires.After(start.Add(-defaultLeeway)) || got.Expires.After(start.Add(maxLife)) {
			t.Errorf("exp %v is taken for %s", read["exp"], got.Expires)
		}
		for _, s := range slices.Concat(got.Groups, []string{got.Subject, got.Name, got.Email, got.TokenID}) {
			if !clean(s) || len(s) > maxText {
				t.Errorf("%q is not safe to show", s)
			}
		}
	})
}
