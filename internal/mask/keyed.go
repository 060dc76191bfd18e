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
	{"sharedaccesssignature", false},
	{"sig", false}, // of Azure's signed URLs
	{"apitoken", false},
	{"apisecret", false},
	{"bearer", false},
}

// keyed looks at a : or = between a name and a value. It never goes on behind the
// value: with an odd number of quotes, the next name may be in it.
func (c *cursor) keyed(i int) int {
	last := c.nameEnd(i)
	if last < 0 {
		return i + 1
	}
	long := c.looksIssued(i + 1)
	if !long && !c.endsKeyword(last) {
		return i + 1
	}
	var room [maxKeyWord]byte
	name := c.keyBefore(i, last, &room)
	k, ok := matchKeyword(name)
	if !ok && !long {
		return i + 1
	}
	from, to := c.valueAfter(i + 1)
	value := c.v[from:to]
	switch {
	case stated(value):
	case ok && k.password && likePassword(value):
		c.hit(from, to, "password")
	case ok && !k.password && likeKey(value):
		c.hit(from, to, "secret")
	case long:
		if detector := c.issuedBy(name, from, to); detector != "" {
			c.hit(from, to, detector)
		}
	}
	return i + 1
}

// nameEnd is where the name before i ends, behind which may be spaces and a
// quote that may be escaped; -1 when there is none.
func (c *cursor) nameEnd(i int) int {
	j := i - 1
	for n := 0; n < 3 && j >= 0 && (c.v[j] == ':' || c.v[j] == '?' || c.v[j] == '='); n++ { // :=, ?=, ==
		j--
	}
	for n := 0; n < 4 && j >= 0 && (c.v[j] == ' ' || c.v[j] == '\t'); n++ {
		j--
	}
	if j >= 0 && (c.v[j] == '"' || c.v[j] == '\'') {
		j--
		for n := 0; n < 3 && j >= 0 && c.v[j] == '\\'; n++ {
			j--
		}
	}
	if j < 0 || class[c.v[j]]&isTokenish == 0 {
		return -1
	}
	return j
}

// keyBefore reads the name that ends at j, backwards: letters in lower case,
// without dots, dashes and underscores.
func (c *cursor) keyBefore(i, j int, room *[maxKeyWord]byte) []byte {
	at := len(room)
	for ; j >= 0 && at > 0 && i-j <= 2*maxKeyWord; j-- {
		b := c.v[j]
		switch cl := class[b]; {
		case cl&isUpper != 0:
			b |= 0x20
		case cl&isLower != 0:
		case cl&isDigit != 0:
		case b == '_' || b == '-' || b == '.':
			continue
		default:
			return room[at:]
		}
		at--
		room[at] = b
	}
	return room[at:]
}

// endings are the last two letters of keywords, which make most names a matter
// of one look.
var endings = func() (t [32]uint32) {
	for _, k := range keywords {
		n := len(k.word)
		t[k.word[n-1]&31] |= 1 << (k.word[n-2] & 31)
	}
	return t
}()

// endsKeyword reports whether the name that ends at j may end with a keyword.
func (c *cursor) endsKeyword(j int) bool {
	if class[c.v[j]]&(isUpper|isLower) == 0 || j == 0 {
		return false
	}
	before := c.v[j-1]
	if before == '_' || before == '-' {
		return true
	}
	return endings[c.v[j]&31]&(1<<(before&31)) != 0
}

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
	for n := 0; n < 4 && i < len(c.v) && (c.v[i] == ' ' || c.v[i] == '\t' || c.v[i] == '>' || c.v[i] == '='); n++ { // => of Ruby and Perl, :=
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
			end := j
			for b == '=' && j < limit && c.v[j] == '=' { // base64's padding
				j++
			}
			if j > end && c.is(j, isAlnum) {
				return i, end // and the value is the name of another
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
