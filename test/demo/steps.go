package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/identity"
)

// step is one thing that the demo shows.
type step struct {
	title string
	// run returns what the agent saw and what really happened.
	run func(*demo) (saw, really string, err error)
}

var steps = []step{
	{"a login with a placeholder", login},
	{"results are masked", masked},
	{"DDL is denied, with a hint", ddl},
	{"a DELETE waits for a person and is approved", approved},
	{"another DELETE waits and is denied", denied},
	{"the real password is nowhere in the agent", absent},
	{"going around the gateway fails", around},
	{"the secret is rotated, and the agent notices nothing", rotated},
	{"the session can be replayed", replayed},
	{"the recordings are intact", verified},
	{"metrics", metrics},
}

func cgroupMount() (string, error) { return identity.CgroupMount() }

// want fails when a text lacks one of these.
func want(text string, parts ...string) error {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return fmt.Errorf("%q is missing in: %s", p, text)
		}
	}
	return nil
}

func unwanted(text string, parts ...string) error {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return fmt.Errorf("%q is in: %s", p, text)
		}
	}
	return nil
}

func login(d *demo) (saw, really string, err error) {
	saw, err = d.agent.do(`\conninfo` + "\nSELECT count(*) AS orders FROM orders;")
	if err != nil {
		return saw, "", err
	}
	users, err := d.pg.Query("postgres", "SELECT DISTINCT usename || ' in ' || datname FROM pg_stat_activity WHERE usename = '"+realUser+"'")
	if err != nil {
		return saw, "", err
	}
	really = "logged in to PostgreSQL as " + strings.TrimSpace(users) + ", by SCRAM over verified TLS"
	if err := want(saw, `database "orders" as user "app"`, "20"); err != nil {
		return saw, really, err
	}
	return saw, really, want(users, realUser+" in shop")
}

func masked(d *demo) (saw, really string, err error) {
	saw, err = d.agent.do("SELECT id, name, email, ssn FROM customers ORDER BY id;")
	if err != nil {
		return saw, "", err
	}
	really, err = d.pg.Query("shop", "SELECT * FROM customers ORDER BY id")
	if err != nil {
		return saw, "", err
	}
	if err := want(saw, "Ada", "Grace"); err != nil {
		return saw, really, err
	}
	return saw, really, unwanted(saw, "ada@example.org", "078-05-1120", "219-09-9999")
}

func ddl(d *demo) (saw, really string, err error) {
	saw, err = d.agent.do("DROP TABLE orders;")
	if err != nil {
		return saw, "", err
	}
	left, err := d.pg.Query("shop", "SELECT count(*) FROM orders")
	if err != nil {
		return saw, "", err
	}
	really = "PostgreSQL never heard of it; the table has " + strings.TrimSpace(left) + " rows"
	if err := want(left, "20"); err != nil {
		return saw, really, err
	}
	return saw, really, want(saw, "schema changes go through a migration pull request", "HINT", "db-migrations", "no-ddl")
}

// ask sends a statement that waits, and returns the approval's id and what the
// agent saw so far.
func (d *demo) ask(statement string) (id, saw string, err error) {
	if err := d.agent.send(statement); err != nil {
		return "", "", err
	}
	for !strings.Contains(saw, "HINT") {
		line, err := d.agent.line()
		saw += line
		if err != nil {
			return "", saw, err
		}
		if _, after, ok := strings.Cut(line, "waiting for approval "); ok {
			id = strings.TrimSpace(after)
		}
	}
	if id == "" {
		return "", saw, fmt.Errorf("no approval was asked for")
	}
	return id, saw, nil
}

func approved(d *demo) (saw, really string, err error) {
	id, saw, err := d.ask("DELETE FROM orders WHERE state = 'new' AND id > 15;")
	if err != nil {
		return saw, "", err
	}
	before, err := d.pg.Query("shop", "SELECT count(*) FROM orders")
	if err != nil {
		return saw, "", err
	}
	out, err := d.postern.CLI("approve", id, "--reason", "old test data").CombinedOutput()
	if err != nil {
		return saw, string(out), err
	}
	rest, err := d.agent.answer()
	saw += rest
	if err != nil {
		return saw, "", err
	}
	after, err := d.pg.Query("shop", "SELECT count(*) FROM orders")
	if err != nil {
		return saw, "", err
	}
	really = fmt.Sprintf("%s rows while it waited; root ran: postern approve %s --reason 'old test data'; %s rows after",
		strings.TrimSpace(before), id, strings.TrimSpace(after))
	if strings.TrimSpace(before) != "20" || strings.TrimSpace(after) != "15" {
		return saw, really, fmt.Errorf("rows: %s before, %s after", before, after)
	}
	return saw, really, nil
}

func denied(d *demo) (saw, really string, err error) {
	id, saw, err := d.ask("DELETE FROM orders;")
	if err != nil {
		return saw, "", err
	}
	if out, err := d.postern.CLI("deny", id, "--reason", "not all of them").CombinedOutput(); err != nil {
		return saw, string(out), err
	}
	rest, err := d.agent.answer()
	saw += rest
	if err != nil {
		return saw, "", err
	}
	left, err := d.pg.Query("shop", "SELECT count(*) FROM orders")
	if err != nil {
		return saw, "", err
	}
	really = "root ran: postern deny " + id + "; the table still has " + strings.TrimSpace(left) + " rows"
	if err := want(left, "15"); err != nil {
		return saw, really, err
	}
	return saw, really, want(saw, "not all of them")
}

func absent(d *demo) (saw, really string, err error) {
	pids, err := d.processes()
	if err != nil {
		return "", "", err
	}
	found := 0
	for _, pid := range pids {
		where, err := memoryHolds(pid, realPassword)
		if err == nil && where != "" {
			err = fmt.Errorf("process %d has it in %s", pid, where)
		}
		if err != nil {
			return "", "", err
		}
		// The same search finds the placeholder, so it would find the password.
		if where, err := memoryHolds(pid, placeholder); err == nil && where != "" {
			found++
		}
	}
	if found == 0 {
		return "", "", fmt.Errorf("the search does not even find the placeholder")
	}
	if err := unwanted(d.heard.String(), realPassword, realUser); err != nil {
		return "", "", err
	}
	return "the placeholder in its environment and memory",
		fmt.Sprintf("environment, memory and output of %d processes were searched: no real password, no real user", len(pids)), nil
}

func around(d *demo) (saw, really string, err error) {
	direct := fmt.Sprintf("127.0.0.1:%d", d.pg.Port)
	out, err := d.postern.RunIn("strict", "planner", nil, filepath.Join(d.dir, "demo"), "attempt", direct).CombinedOutput()
	saw = string(out)
	if err != nil {
		return saw, "", err
	}
	if err := unwanted(saw, "OPEN"); err != nil {
		return saw, "", err
	}
	if strings.Count(saw, "\n") != 6 {
		return saw, "", fmt.Errorf("not every attempt was made")
	}
	arrived, err := d.outside.Frames()
	if err != nil {
		return saw, "", err
	}
	if len(arrived) > 0 {
		return saw, "", fmt.Errorf("packets arrived outside: %q", arrived)
	}
	line, err := d.postern.LogLine("denied by the kernel")
	return saw, "a sniffer at the other end of the cable saw nothing; the daemon logged:\n" + line, err
}

func rotated(d *demo) (saw, really string, err error) {
	if err := d.pg.SQL("postgres", "ALTER ROLE "+realUser+" PASSWORD '"+nextPassword+"'"); err != nil {
		return "", "", err
	}
	if err := d.postern.Seal("secrets.age", "password: "+nextPassword+"\n"); err != nil {
		return "", "", err
	}
	if out, err := d.postern.CLI("secret", "refresh").CombinedOutput(); err != nil {
		return "", string(out), err
	}
	saw, err = d.agent.do(`\c` + "\nSELECT 'still the same placeholder' AS hello;\n" + `\conninfo`)
	if err != nil {
		return saw, "", err
	}
	really = "the role's password and the secret file were changed; the new session logged in with the new one"
	return saw, really, want(saw, "still the same placeholder", `as user "app"`)
}

func replayed(d *demo) (saw, really string, err error) {
	list, err := d.postern.CLI("sessions", "--target", "orders").CombinedOutput()
	if err != nil {
		return "", string(list), err
	}
	lines := strings.Split(strings.TrimSpace(string(list)), "\n")
	oldest := strings.Fields(lines[len(lines)-1])
	if len(oldest) < 3 {
		return "", string(list), fmt.Errorf("no session is listed")
	}
	out, err := d.postern.CLI("replay", "--speed", "0", oldest[2]).CombinedOutput()
	text := string(out)
	if err != nil {
		return "", text, err
	}
	if err := want(text, "DROP TABLE orders", "deny by rule no-ddl", "approval", "old test data", "DELETE 5", "not all of them"); err != nil {
		return "", text, err
	}
	if err := unwanted(text, realPassword, "ada@example.org", "078-05-1120"); err != nil {
		return "", text, err
	}
	shown := strings.Split(text, "\n")
	return "", "postern replay " + oldest[2] + ":\n" + strings.Join(shown[:min(len(shown), 14)], "\n") +
		fmt.Sprintf("\n… %d lines in all", len(shown)), nil
}

func verified(d *demo) (saw, really string, err error) {
	out, err := d.postern.CLI("audit", "verify").CombinedOutput()
	return "", "postern audit verify: " + string(out), err
}

func metrics(d *demo) (saw, really string, err error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.postern.Metrics)
	}}}
	resp, err := client.Get("http://postern/metrics")
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	var shown []string
	for line := range strings.Lines(string(body)) {
		for _, name := range []string{"postern_requests_total", "postern_masked_values_total{kind=\"column\"", "postern_credentials_swapped_total", "postern_bypass_attempts_total{kind=\"udp\"", "postern_bypass_attempts_total{kind=\"socket\""} {
			if strings.HasPrefix(line, name) {
				shown = append(shown, strings.TrimSpace(line))
			}
		}
	}
	if err := want(string(body), `postern_requests_total{protocol="postgres",target="orders",verdict="deny"}`, "postern_build_info"); err != nil {
		return "", "", err
	}
	return "", strings.Join(shown, "\n"), unwanted(string(body), realPassword, nextPassword, placeholder)
}
