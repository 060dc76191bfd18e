package servers

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// maxPages is how many forms a login has at most: code, name, consent.
const maxPages = 12

// Approve logs a user in at a provider by device flow, as a person with a
// browser does: it opens verificationURIComplete and submits every form.
func Approve(verificationURIComplete, user string) error {
	b, err := newBrowser(user, "")
	if err != nil {
		return err
	}
	_, err = b.run(verificationURIComplete)
	return err
}

// Authorize logs a user in by code flow: it opens authURL, submits every form,
// and returns the query that comes to the redirect URI, with code and state.
func Authorize(authURL, user string) (url.Values, error) {
	u, err := url.Parse(authURL)
	if err != nil {
		return nil, err
	}
	redirect := u.Query().Get("redirect_uri")
	if redirect == "" {
		return nil, errors.New("the address has no redirect_uri")
	}
	b, err := newBrowser(user, redirect)
	if err != nil {
		return nil, err
	}
	return b.run(authURL)
}

// Deny is Authorize or Approve by a person who refuses: it follows the page's
// link that aborts.
func Deny(address, user string) (url.Values, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	b, err := newBrowser(user, u.Query().Get("redirect_uri"))
	if err != nil {
		return nil, err
	}
	b.abort = true
	return b.run(address)
}

// browser is a person with a browser.
type browser struct {
	client   *http.Client
	user     string
	redirect string // where it ends; empty: at the first page without a form
	abort    bool   // it follows the link that aborts
	aborted  bool
}

func newBrowser(user, redirect string) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	b := &browser{user: user, redirect: redirect}
	b.client = &http.Client{Jar: jar, Timeout: patience, Transport: &http.Transport{}}
	b.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if b.home(r.URL) {
			return http.ErrUseLastResponse
		}
		return nil
	}
	return b, nil
}

// home reports whether an address is the redirect URI.
func (b *browser) home(u *url.URL) bool {
	at := *u
	at.RawQuery = ""
	return b.redirect != "" && at.String() == b.redirect
}

func (b *browser) run(address string) (url.Values, error) {
	defer b.client.CloseIdleConnections()
	resp, err := b.client.Get(address)
	for range maxPages {
		if err != nil {
			return nil, err
		}
		if to, err := resp.Location(); err == nil && b.home(to) {
			resp.Body.Close()
			return to.Query(), nil
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= http.StatusBadRequest && !b.abort {
			return nil, fmt.Errorf("%s: %s: %.300s", resp.Request.URL.Path, resp.Status, body)
		}
		page, err := readPage(string(body), resp.Request.URL)
		if err != nil {
			return nil, err
		}
		switch {
		case b.aborted && b.redirect == "":
			return nil, nil
		case b.abort && !b.aborted && page.abort != "":
			b.aborted = true
			resp, err = b.client.Get(page.abort)
		case page.action != "":
			resp, err = b.client.PostForm(page.action, b.fill(page.fields))
		case b.redirect != "":
			return nil, fmt.Errorf("%s: no form, and not the redirect URI: %.300s", resp.Request.URL.Path, body)
		default:
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
	}
	return nil, fmt.Errorf("no end after %d pages", maxPages)
}

// fill answers what a form asks a person for.
func (b *browser) fill(fields url.Values) url.Values {
	for name, value := range map[string]string{"login": b.user, "username": b.user, "password": "any"} {
		if _, asked := fields[name]; asked {
			fields.Set(name, value)
		}
	}
	return fields
}

// page is what a browser does with one.
type page struct {
	action string // of its first form
	fields url.Values
	abort  string // a link
}

// readPage finds the first form of a page, and the link that aborts.
func readPage(text string, at *url.URL) (*page, error) {
	p := &page{fields: url.Values{}}
	z := html.NewTokenizer(strings.NewReader(text))
	inside := false
	for {
		switch z.Next() {
		case html.ErrorToken:
			if errors.Is(z.Err(), io.EOF) {
				return p, nil
			}
			return nil, z.Err()
		case html.EndTagToken:
			if z.Token().Data == "form" {
				inside = false
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			t := z.Token()
			is := map[string]string{}
			for _, a := range t.Attr {
				is[a.Key] = a.Val
			}
			switch {
			case t.Data == "form" && p.action == "":
				to, err := at.Parse(is["action"])
				if err != nil {
					return nil, err
				}
				p.action, inside = to.String(), true
			case t.Data == "input" && inside && is["name"] != "":
				p.fields.Set(is["name"], is["value"])
			case t.Data == "a" && strings.HasSuffix(is["href"], "/abort"):
				to, err := at.Parse(is["href"])
				if err != nil {
					return nil, err
				}
				p.abort = to.String()
			}
		}
	}
}
