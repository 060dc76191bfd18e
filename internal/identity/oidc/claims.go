package oidc

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
)

const (
	// maxMapping bounds the text of one mapping, in characters.
	maxMapping = 4096
	// maxMappingCost bounds an evaluation, in CEL's units: about 5 ms at worst.
	maxMappingCost = 200_000
	// maxExtra bounds the extra fields of an identity.
	maxExtra = 32
	// maxGroups is more than any person has a use for, and than Entra sends.
	maxGroups = 1000
	// maxSubject is what OpenID Connect Core, 2, allows.
	maxSubject = 255
	// maxText bounds name, email, owner and a group.
	maxText = 320
	// maxExtraText bounds the value of an extra field.
	maxExtraText = 1024
)

const extraPrefix = "extra."

// defaultClaims are what OpenID Connect Core, 5.1, calls them. An email that
// the provider says it has not verified is nobody's.
var defaultClaims = map[string]string{
	"subject": `claims.sub`,
	"name":    `has(claims.preferred_username) ? claims.preferred_username : has(claims.name) ? claims.name : ""`,
	"email":   `has(claims.email) && !(has(claims.email_verified) && claims.email_verified in [false, "false"]) ? claims.email : ""`,
	"groups":  `has(claims.groups) ? claims.groups : []`,
	"owner":   `""`,
}

// mapping makes one field of an identity of the claims.
type mapping struct {
	field   string
	source  string
	program cel.Program
}

func compileClaims(configured map[string]string) ([]mapping, error) {
	env, err := cel.NewEnv(cel.ParserExpressionSizeLimit(maxMapping), cel.ParserRecursionLimit(64),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	all := maps.Clone(defaultClaims)
	extra := 0
	for field, source := range configured {
		name, isExtra := strings.CutPrefix(field, extraPrefix)
		if _, known := defaultClaims[field]; !known && (!isExtra || name == "" || !clean(name) || len(name) > maxText) {
			return nil, fmt.Errorf("claims.%s: there are subject, name, email, groups, owner and extra.NAME", field)
		}
		if isExtra {
			extra++
		}
		all[field] = source
	}
	if extra > maxExtra {
		return nil, fmt.Errorf("%d claims in extra, at most %d", extra, maxExtra)
	}
	var out []mapping
	for _, field := range slices.Sorted(maps.Keys(all)) {
		m, err := compileMapping(env, field, all[field])
		if err != nil {
			return nil, fmt.Errorf("claims.%s: %w", field, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func compileMapping(env *cel.Env, field, source string) (mapping, error) {
	checked, issues := env.Compile(source)
	if err := issues.Err(); err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n") // a caret is drawn below
		return mapping{}, errors.New(strings.TrimPrefix(line, "ERROR: <input>:"))
	}
	t := checked.OutputType()
	list := field == "groups" && t.Kind() == cel.ListKind
	if !list && !t.IsExactType(cel.StringType) && t.Kind() != cel.DynKind {
		return mapping{}, fmt.Errorf("it is of type %s: it must be a text, of groups a list of texts", t)
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxMappingCost))
	if err != nil {
		return mapping{}, err
	}
	return mapping{field, source, program}, nil
}

// identity is what the claims of a verified token come to.
func (i *issuer) identity(t *token) (Identity, error) {
	if err := i.checkComplete(t); err != nil {
		return Identity{}, err
	}
	out := Identity{Issuer: i.Name, IssuerURL: i.URL, IssuedAt: t.issued, Expires: t.expires, TokenID: t.id()}
	for _, m := range i.mappings {
		values, err := m.eval(t.claims)
		if err == nil {
			err = out.set(m.field, values)
		}
		if err != nil {
			return Identity{}, &refusal{kind: ErrClaims, issuer: i.Name, detail: "claims." + m.field + ": " + err.Error(), help: "see claims of the issuer, and what the provider puts into its tokens"}
		}
	}
	return out, nil
}

// checkComplete refuses a token that says where its groups are to be asked for
// instead of having them (Entra does beyond 200): to go on without them would
// turn a rule that denies a group into one that does not.
func (i *issuer) checkComplete(t *token) error {
	names, there := t.claims["_claim_names"]
	elsewhere, ok := names.(map[string]any)
	if there && !ok {
		return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "_claim_names is no object"}
	}
	missing := slices.Collect(maps.Keys(elsewhere))
	if has, _ := t.claims["hasgroups"].(bool); has {
		missing = append(missing, "groups")
	}
	for _, m := range i.mappings {
		for _, name := range missing {
			if name != "" && strings.Contains(m.source, name) {
				return &refusal{
					kind: ErrClaims, issuer: i.Name, detail: "claims." + m.field + ": the provider has left out what it is made of, because it is too much for a token",
					help: "have it send only the groups that are assigned to the application, or application roles",
				}
			}
		}
	}
	return nil
}

var errMapping = errors.New("it cannot be evaluated: a claim is missing, of another type, or too much")

// eval returns the texts that a mapping comes to. CEL's own error may quote
// what is in the token, so it goes no further.
func (m *mapping) eval(claims map[string]any) ([]string, error) {
	out, _, err := m.program.Eval(map[string]any{"claims": claims})
	if err != nil {
		return nil, errMapping
	}
	if s, ok := out.Value().(string); ok {
		return []string{s}, nil
	}
	if m.field != "groups" {
		return nil, errors.New("it is no text")
	}
	list, err := out.ConvertToNative(reflect.TypeFor[[]string]())
	if err != nil {
		return nil, errors.New("it is neither a text nor a list of texts")
	}
	return list.([]string), nil
}

func (i *Identity) set(field string, values []string) error {
	if field == "groups" {
		return i.setGroups(values)
	}
	value := values[0]
	most := maxText
	switch {
	case field == "subject":
		most = maxSubject
		if value == "" {
			return errors.New("it is empty")
		}
	case field == "name":
		value = readable(value) // it is shown and decides nothing
	case strings.HasPrefix(field, extraPrefix):
		most = maxExtraText
	}
	if err := checkText(value, most); err != nil {
		return err
	}
	switch field {
	case "subject":
		i.Subject = value
	case "name":
		i.Name = value
	case "email":
		i.Email = value
	case "owner":
		i.Owner = value
	default:
		if i.Extra == nil {
			i.Extra = map[string]string{}
		}
		i.Extra[strings.TrimPrefix(field, extraPrefix)] = value
	}
	return nil
}

func (i *Identity) setGroups(groups []string) error {
	if len(groups) > maxGroups {
		return fmt.Errorf("there are more than %d", maxGroups)
	}
	for _, g := range groups {
		if g == "" {
			continue // a mapping's way to say none
		}
		if err := checkText(g, maxText); err != nil {
			return err
		}
		if !slices.Contains(i.Groups, g) {
			i.Groups = append(i.Groups, g)
		}
	}
	return nil
}

func checkText(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("it is longer than %d bytes", most)
	}
	if !clean(s) {
		return errors.New("it has control or formatting characters")
	}
	return nil
}

// unreadable are characters that change what a line looks like, or stand for
// nothing at all: U+FFFD is what is left of half a surrogate pair.
func unreadable(r rune) bool {
	return r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs)
}

func clean(s string) bool { return utf8.ValidString(s) && strings.IndexFunc(s, unreadable) < 0 }

// readable leaves out what is not.
func readable(s string) string {
	return strings.Map(func(r rune) rune {
		if unreadable(r) {
			return -1
		}
		return r
	}, s)
}
