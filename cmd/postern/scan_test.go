package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// held is a home and an environment with a canary in each place, numbered when
// they are written; SAME is one, in places where it should not be.
var held = map[string]string{
	"home/.pgpass":              "# comment\npass-db.internal:5433:shop:pat:CANARY\\:x\n*:*:*:star:CANARY\n",
	"home/.pg_service.conf":     "[orders]\nhost=service-db.internal\nport=5432\nuser=sue\ndbname=shop\npassword=CANARY\n",
	"home/.kube/config":         "clusters: [{name: c, cluster: {server: 'https://kube.internal:6443'}}]\nusers:\n- name: a\n  user: {token: CANARY}\n- name: b\n  user: {client-key-data: CANARY, password: CANARY}\n- name: c\n  user: {exec: {command: aws}}\n",
	"home/.ssh/id_ed25519":      "-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\n-----END OPENSSH PRIVATE KEY-----\n",
	"home/.ssh/known_hosts":     "host ssh-ed25519 AAAA\n",
	"home/.aws/credentials":     "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = CANARY\naws_session_token = CANARY\n",
	"home/.config/gh/hosts.yml": "github.com:\n  user: octo\n  oauth_token: CANARY\n",
	"home/.docker/config.json":  `{"auths": {"https://registry.internal/v1/": {"auth": "CANARY"}}}`,
	"home/.netrc":               "machine net.internal login ned password CANARY\nmachine hub.internal login CANARY password x-oauth-basic\nmachine lab.internal login oauth2 password CANARY\n",
	"home/.git-credentials":     "https://gil:CANARY@git.internal\nhttps://CANARY:x-oauth-basic@hub.internal\nhttps://CANARY@bare.internal\nhttps://CANARY:CANARY@two.internal\n",
	"home/.env":                 "# DB=x\nexport DATABASE_URL=\"postgresql+psycopg://ed:CANARY@env-db.internal:6432/shop?sslmode=require\"\nOPENAI_API_KEY=CANARY\nBROKEN_TOKEN=CANARY CANARY\nPATH=/bin\n",
	"home/app/.env.local":       "DSN=host=dsn-db.internal user=dee dbname=shop password='CANARY \\'q'\nREDIS_URL=redis://:CANARY@redis.internal:6379\nINDEX=https://CANARY@index.internal/simple\nFEED=https://__token__:CANARY@feed.internal/\nODD=postgres://u%0aSAME:SAME@odd-db.internal/SAME\n",
	"proc/123/comm":             "agent\n",
	"proc/123/cgroup":           "0::/agents.slice/old\n",
	"proc/123/environ":          "PGPASSWORD=CANARY\x00PGHOST=proc-db.internal\x00PGUSER=eve\x00PGDATABASE=shop\x00GITHUB_TOKEN=CANARY\x00AWS_SECRET_ACCESS_KEY=CANARY\x00PWD=/home\x00",
	"proc/124/comm":             "other\n",
	"proc/124/cgroup":           "0::/agents.slice/older\n",
	"proc/124/environ":          "STRANGERS_TOKEN=CANARY\x00",
}

// TestScanShowsNoValue: whatever is found, and however broken it is, nothing of a
// value is printed.
func TestScanShowsNoValue(t *testing.T) {
	dir := t.TempDir()
	n := 0
	for name, text := range held {
		text = regexp.MustCompile("CANARY").ReplaceAllStringFunc(text, func(string) string { n++; return fmt.Sprintf("canary%03dZq8vR2mN7", n) })
		text = strings.ReplaceAll(text, "SAME", "canary999Zq8vR2mN7")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n < 31 {
		t.Fatalf("%d canaries", n)
	}
	args := []string{"scan", "--home", dir + "/home", "--proc", dir + "/proc", "--cgroup", "agents.slice/old"}
	out, err := postern(args...).CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	asJSON, err := postern(append(args, "--json")...).CombinedOutput()
	if err != nil {
		t.Fatal(err, string(asJSON))
	}
	for _, printed := range []string{string(out), string(asJSON)} {
		for _, part := range []string{"canary", "Zq8vR2", "STRANGERS"} {
			if strings.Contains(printed, part) {
				t.Errorf("%q is printed:\n%s", part, printed)
			}
		}
	}
	var s scanned
	if err := json.Unmarshal(asJSON, &s); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range s.Findings {
		found = append(found, f.Kind+" "+forWhom(f))
	}
	for _, want := range []string{
		"postgres pat@pass-db.internal:5433/shop", "postgres sue@service-db.internal:5432/shop", "kubernetes kube.internal:6443", "ssh-key -", "aws -",
		"git octo@github.com", "docker registry.internal", "netrc net.internal", "netrc hub.internal", "netrc oauth2@lab.internal", "git git.internal", "git hub.internal", "git bare.internal", "git two.internal",
		"url index.internal", "url __token__@feed.internal", "postgres ed@env-db.internal:6432/shop",
		"token -", "postgres dee@dsn-db.internal/shop", "url redis.internal:6379", "postgres odd-db.internal", "postgres eve@proc-db.internal/shop",
	} {
		if !slices.Contains(found, want) {
			t.Errorf("lacks %s in %q", want, found)
		}
	}
	for _, want := range []string{"PGPASSWORD of agent (123)", "hosts:\n        - env-db.internal:6432", "path: env-db.age", "password: placeholder-"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
}

func TestScanFindsNothing(t *testing.T) {
	dir := t.TempDir()
	out, err := postern("scan", "--home", dir, "--proc", dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no credentials found") {
		t.Error(err, string(out))
	}
}
