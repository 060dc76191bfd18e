package mask

// keyword is a name after which a value is a secret.
type keyword struct {
	word     string
	password bool // people choose it: short ones count
}

// keywords are compared without regard to case, dashes and underscores, with
// the end of the name: db_password, DB-PASSWORD and dbPassword all match.
var keywords = []keyword{
	{"password", true},
	{"passwd", true},
	{"passphrase", true},
	{"pwd", true},
	{"pgpassword", true},
	{"secret", false},
	{"token", false},
	{"apikey", false},
	{"accesskey", false},
	{"secretkey", false},
	{"privatekey", false},
	{"accountkey", false},
	{"signingkey", false},
	{"encryptionkey", false},
	{"authorization", false},
	{"credential", false},
	{"credentials", false},
	{"authtoken", false},
	{"clientsecret", false},
	{"sharedaccesskey", false},
}

// keyed looks at a : or = between a name and a value.
func (c *cursor) keyed(i int) int {
	k, ok := c.keyBefore(i)
	if !ok {
		return i + 1
	}
	from, to := c.valueAfter(i + 1)
	value := c.v[from:to]
	if stated(value) {
		return i + 1
	}
	if k.password && !likePassword(value) || !k.password && !likeKey(value) {
		return i + 1
	}
	if k.password {
		return c.hit(from, to, "password")
	}
	return c.hit(from, to, "secret")
}

// keyBefore reads the name before i, from its end: spaces, a quote that may be
// escaped, then the name.
func (c *cursor) keyBefore(i int) (keyword, bool) {
	j := i - 1
	for n := 0; n < 2 && j >= 0 && c.v[j] == ' '; n++ {
		j--
	}
	if j >= 0 && (c.v[j] == '"' || c.v[j] == '\'') {
		j--
		for n := 0; n < 3 && j >= 0 && c.v[j] == '\\'; n++ {
			j--
		}
	}
	var name [maxKeyWord]byte
	at := len(name)
	for ; j >= 0 && at > 0; j-- {
		b := c.v[j]
		switch cl := class[b]; {
		case cl&isUpper != 0:
			b |= 0x20
		case cl&isLower != 0:
		case b == '_' || b == '-':
			continue
		default:
			return matchKeyword(name[at:])
		}
		at--
		name[at] = b
		if at == len(name)-1 && !endsKeyword[b] {
			return keyword{}, false
		}
		if i-j > 2*maxKeyWord {
			break
		}
	}
	return matchKeyword(name[at:])
}

// endsKeyword makes most names a matter of one look.
var endsKeyword = func() (t [256]bool) {
	for _, k := range keywords {
		t[k.word[len(k.word)-1]] = true
	}
	return t
}()

func matchKeyword(name []byte) (keyword, bool) {
	for _, k := range keywords {
		if n := len(name) - len(k.word); n >= 0 && string(name[n:]) == k.word {
			return k, true
		}
	}
	return keyword{}, false
}

// valueAfter finds the value behind a : or =: in quotes, which may be escaped,
// or up to a delimiter. A scheme of an Authorization header is passed over.
func (c *cursor) valueAfter(i int) (from, to int) {
	for n := 0; n < 2 && i < len(c.v) && (c.v[i] == ' ' || c.v[i] == '>'); n++ { // => of Ruby and Perl
		i++
	}
	escaped := false
	for n := 0; n < 3 && i < len(c.v) && c.v[i] == '\\'; n++ {
		escaped = true
		i++
	}
	quote := byte(0)
	if i < len(c.v) && (c.v[i] == '"' || c.v[i] == '\'') {
		quote = c.v[i]
		i++
	}
	for _, scheme := range []string{"Bearer ", "bearer ", "Basic ", "basic ", "token "} {
		if c.hasPrefix(i, scheme) {
			i += len(scheme)
			break
		}
	}
	limit := min(len(c.v), i+maxToken)
	for j := i; j < limit; j++ {
		b := c.v[j]
		switch {
		case quote == '\'' && c.hasPrefix(j, "''"):
			j++ // SQL's quote in quotes
		case quote != 0 && b == quote, escaped && b == '\\', b < ' ':
			return i, j
		case quote != 0 && b == '\\':
			j++ // it escapes the next byte
		case quote == 0 && (b == ' ' || b == ',' || b == ';' || b == '&' || b == '"' || b == '\'' || b == '`' ||
			b == ')' || b == '}' || b == ']' || b == '<' || b == '>' || b == '='):
			for b == '=' && j < limit && c.v[j] == '=' { // base64's padding
				j++
			}
			return i, j
		}
	}
	return i, limit
}

// likePassword tells a password from the words that follow "password:" in
// prose and in schemas.
func likePassword(v []byte) bool {
	letters, others := shape(v)
	switch {
	case len(v) < 6:
		return false
	case letters > 0 && others > 0:
		return entropy(v) >= 2
	}
	return len(v) >= 12 && entropy(v) >= 3
}

// likeKey asks for what a machine made.
func likeKey(v []byte) bool {
	letters, others := shape(v)
	for _, b := range v {
		if b == ' ' {
			return false
		}
	}
	switch {
	case len(v) < 16:
		return false
	case letters > 0 && others > 0:
		return entropy(v) >= 3
	}
	return len(v) >= 20 && letters > 0 && entropy(v) >= 3.5
}

// shape counts letters, and digits and other signs.
func shape(v []byte) (letters, others int) {
	for _, b := range v {
		if class[b]&(isUpper|isLower) != 0 {
			letters++
		} else if b != ' ' && b != '_' && b != '-' && b != '.' && b != '/' && b != ':' {
			others++
		}
	}
	return letters, others
}
