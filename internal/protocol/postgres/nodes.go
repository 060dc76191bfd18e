package postgres

import (
	"strconv"
	"strings"
)

// PostgreSQL keeps parse trees as text (nodeToString): {KIND :field value …} for
// nodes and (…) for lists; a backslash takes the next character as it is. Every
// field has at least one value, which may look like another field's name.

// maxNodeDepth bounds nesting.
const maxNodeDepth = 300

// node is a node, a list, or one word of text.
type node struct {
	kind     string // of a node
	fields   []nodeField
	elements []node // of a list
	text     string // of a word, with its escapes
}

type nodeField struct {
	name   string
	values []node
}

// field returns the first value of a field; the zero node when it has none, or <>.
func (n node) field(name string) node {
	for _, f := range n.fields {
		if f.name == name && len(f.values) > 0 && f.values[0].text != "<>" {
			return f.values[0]
		}
	}
	return node{}
}

func (n node) list(name string) []node { return n.field(name).elements }

func (n node) word(name string) string { return n.field(name).text }

// number is -1 for what is none.
func (n node) number(name string) int64 {
	v, err := strconv.ParseInt(n.word(name), 10, 64)
	if err != nil {
		return -1
	}
	return v
}

// parseNodes returns the one query in a list of one.
func parseNodes(text string) (query node, ok bool) {
	p := &nodeParser{rest: text}
	n, ok := p.value(p.token(), 0)
	if !ok || p.token() != "" || len(n.elements) != 1 || n.elements[0].kind != "QUERY" {
		return node{}, false
	}
	return n.elements[0], true
}

type nodeParser struct{ rest string }

// token returns the next one, empty at the end.
func (p *nodeParser) token() string {
	p.rest = strings.TrimLeft(p.rest, " \n\t")
	if p.rest == "" {
		return ""
	}
	n := 1
	if !strings.ContainsRune("(){}", rune(p.rest[0])) {
		for n = 0; n < len(p.rest) && !strings.ContainsRune("(){} \n\t", rune(p.rest[n])); n++ {
			if p.rest[n] == '\\' && n+1 < len(p.rest) {
				n++
			}
		}
	}
	t := p.rest[:n]
	p.rest = p.rest[n:]
	return t
}

// value reads what begins with a token.
func (p *nodeParser) value(token string, depth int) (n node, ok bool) {
	switch {
	case token == "", token == ")", token == "}", depth > maxNodeDepth:
		return node{}, false
	case token == "(":
		for token = p.token(); token != ")"; token = p.token() {
			v, ok := p.value(token, depth+1)
			if !ok {
				return node{}, false
			}
			n.elements = append(n.elements, v)
		}
		return n, true
	case token == "{":
		return p.node(depth)
	}
	return node{text: token}, true
}

func (p *nodeParser) node(depth int) (n node, ok bool) {
	n.kind = p.token()
	for token := p.token(); token != "}"; {
		if !strings.HasPrefix(token, ":") {
			return node{}, false
		}
		f := nodeField{name: token[1:]}
		for first := true; ; first = false {
			if token = p.token(); !first && (token == "}" || strings.HasPrefix(token, ":")) {
				break
			}
			v, ok := p.value(token, depth+1)
			if !ok {
				return node{}, false
			}
			f.values = append(f.values, v)
		}
		n.fields = append(n.fields, f)
	}
	return n, true
}
